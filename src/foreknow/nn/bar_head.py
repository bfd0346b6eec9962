"""The head that writes a bar (Riemann) distribution: a logit per bucket between fixed borders."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foreknow.common.errors import ConfigError
from foreknow.common.validate import check_int


class BarHead(nn.Module):
    """Token -> one logit per bucket; the borders travel with the weights.

    The borders belong at quantiles of the target under the prior; data never move them.

    Args:
        width: size of a token.
        n_buckets: number K of buckets.
        borders: K + 1 increasing numbers in target units; None takes an even grid on [-3, 3], to be replaced
            by `set_borders` or by loading weights.
        hidden: width of the layer between; None takes `2 * width`.
        zero_init: start with equal logits everywhere, that is with the prior's marginal.

    Raises:
        ConfigError: if the borders are not K + 1 finite increasing numbers.
    """

    borders: Float[Tensor, " k_plus_1"]

    def __init__(
        self,
        width: int,
        n_buckets: int,
        *,
        borders: Float[Tensor, " k_plus_1"] | None = None,
        hidden: int | None = None,
        zero_init: bool = False,
    ) -> None:
        super().__init__()
        self.n_buckets = check_int("BarHead", "n_buckets", n_buckets, low=2)
        hidden = 2 * width if hidden is None else check_int("BarHead", "hidden", hidden, low=1)
        last = nn.Linear(hidden, n_buckets)
        if zero_init:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        self.decoder = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), last)
        self.register_buffer("borders", torch.linspace(-3.0, 3.0, n_buckets + 1, dtype=torch.float32))
        if borders is not None:
            self.set_borders(borders)

    def set_borders(self, borders: Float[Tensor, " k_plus_1"]) -> None:
        """Replace the borders, keeping them float32 and on this head's device."""
        new = torch.as_tensor(borders).to(device=self.borders.device, dtype=torch.float32)
        if new.shape != (self.n_buckets + 1,):
            raise ConfigError(
                f"BarHead: borders must be {self.n_buckets + 1} numbers for {self.n_buckets} buckets, "
                f"got shape {tuple(new.shape)}."
            )
        if not (torch.isfinite(new).all() and (new.diff() > 0).all()):
            raise ConfigError(
                "BarHead: borders must be finite and strictly increasing in float32.",
                hint="Remove duplicates, or take fewer buckets or more prior draws.",
            )
        self.borders.copy_(new)

    def forward(self, tokens: Float[Tensor, "*batch e"]) -> Float[Tensor, "*batch k"]:
        """Unnormalised log-probabilities of the buckets."""
        logits: Tensor = self.decoder(tokens)
        return logits
