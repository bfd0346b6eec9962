"""Classes without an order."""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Generator, Tensor

from foreknow.common.errors import CapabilityError, InputError
from foreknow.core.predictive._numerics import check_logits, take, together
from foreknow.core.predictive.base import Predictive


class Categorical(Predictive):
    """A probability for each of C classes; draws and values are class codes 0..C-1.

    Args:
        logits: unnormalised log probabilities, shape (*batch, C); -inf rules a class out.
    """

    _event_axes = 1

    def __init__(self, logits: Tensor) -> None:
        (self.logits,) = together("Categorical", {"logits": logits})
        check_logits("Categorical", self.logits)

    def _tensors(self) -> list[Tensor]:
        return [self.logits]

    def _with(self, tensors: list[Tensor]) -> Categorical:
        return Categorical(*tensors)

    @property
    def n_classes(self) -> int:
        return self.logits.shape[-1]

    @property
    def probs(self) -> Tensor:
        """Probabilities, shape (*batch, C), rows sum to 1."""
        return self.logits.softmax(-1)

    def mode(self) -> Tensor:
        """Code of the likeliest class, int64, shape batch_shape."""
        return self.logits.argmax(-1)

    def entropy(self) -> Tensor:
        """Entropy in nats, shape batch_shape."""
        log_p = self.logits.log_softmax(-1)
        return -(log_p.exp() * log_p.clamp(min=torch.finfo(log_p.dtype).min)).sum(-1)

    def _log_prob(self, y: Tensor) -> Tensor:
        codes = y.long()
        bad = (codes != y) | (codes < 0) | (codes >= self.n_classes)
        if bool(bad.any()):
            raise InputError(
                f"Categorical: y must hold class codes 0..{self.n_classes - 1}, got {float(y[bad][0])}.",
                hint="Encode labels as whole numbers first.",
            )
        return take(self.logits.log_softmax(-1), codes)

    def _sample(self, n: int, generator: Generator) -> Tensor:
        probs = self.probs.reshape(-1, self.n_classes).to(generator.device)
        codes = torch.multinomial(probs, n, replacement=True, generator=generator)  # (batch, n)
        return codes.T.reshape(n, *self.batch_shape).to(self.device)

    def mean(self) -> Tensor:
        self._refuse("mean")

    def variance(self) -> Tensor:
        self._refuse("variance")

    def _cdf(self, y: Tensor) -> Tensor:
        self._refuse("cdf")

    def _icdf(self, u: Tensor) -> Tensor:
        self._refuse("quantile")

    def _ei(self, best: Tensor, maximize: bool) -> Tensor:
        self._refuse("expected improvement")

    def _refuse(self, what: str) -> NoReturn:
        raise CapabilityError(
            f"Categorical: has no {what}, because classes have no order.",
            hint="Use probs, mode(), entropy() or log_prob(codes).",
        )
