"""The network: a prior as component tokens, observations as tokens to attend to, a mixture out (Whittle et al. 2025).

c_k = MLP([logit w_k, mu_k, log diag L_k, lower L_k])        a prior that is a mixture
h = MLP(features(phi)), c_k = MLP_k(h)                       a parametric prior, one MLP a component
c <- block(c, observations), several times                   self-attention, cross-attention, two-layer network
(w, mu, L) = head(c)                                         w by log-softmax, diag L = exp(.) + 1e-6
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from foreknow.common.errors import ConfigError
from foreknow.common.validate import check_bool, check_int, check_option, check_real
from foreknow.core.predictive import MultivariateMixture
from foreknow.core.predictive.multivariate import mixture_log_density
from foreknow.core.records import record
from foreknow.nn.attention import MultiheadAttention
from foreknow.tasks.distribution_transformer.families import Family, MixtureFamily

_LEAST_SCALE = 1e-6
_MOST_LOG = 12.0
_EPS = 1e-6
FACTORS = ("covariance", "precision")


@record
@dataclass(frozen=True)
class DistributionSettings:
    """Sizes and schedule of one network.

    Args:
        n_components: K of the posterior; that of the prior where this is a mixture.
        width: size of a token.
        depth: decoder blocks.
        n_heads: attention heads; must divide `width`.
        hidden: width of the blocks' two-layer networks.
        embed_hidden: hidden width of embeddings and head.
        norm: "post" (published) or "pre".
        factor: what the head's triangle is a factor of: "covariance" or "precision".
        residual: the head changes the prior's components, in their own scale, in place of replacing them (mixtures
            only).
        anchor: weight of the log density of the prior that is decoded before the blocks.
        batch_size: tasks a step.
        n_steps: optimiser steps.
        lr: highest learning rate.
        warmup: share of the steps in which it rises.
        ema_decay: of the moving average of the weights, or None.
    """

    n_components: int = 5
    width: int = 32
    depth: int = 3
    n_heads: int = 4
    hidden: int = 128
    embed_hidden: int = 64
    norm: str = "post"
    factor: str = "covariance"
    residual: bool = False
    anchor: float = 1.0
    batch_size: int = 512
    n_steps: int = 4000
    lr: float = 1e-3
    warmup: float = 0.1
    ema_decay: float | None = None

    def __post_init__(self) -> None:
        owner = "DistributionSettings"
        for name in ("n_components", "width", "depth", "n_heads", "hidden", "embed_hidden", "batch_size", "n_steps"):
            check_int(owner, name, getattr(self, name), low=1)
        check_option(owner, "norm", self.norm, ("post", "pre"))
        check_option(owner, "factor", self.factor, FACTORS)
        check_bool(owner, "residual", self.residual)
        check_real(owner, "anchor", self.anchor, low=0.0)
        check_real(owner, "lr", self.lr, low=0.0, open_low=True)
        check_real(owner, "warmup", self.warmup, low=0.0, high=1.0)
        if self.width % self.n_heads:
            raise ConfigError(f"{owner}: n_heads must divide width, got {self.n_heads} and {self.width}.")


@dataclass(frozen=True)
class Components:
    """A mixture as the network holds it: log weights (b, K), means (b, K, d), triangular factors (b, K, d, d)."""

    log_weights: Tensor
    means: Tensor
    scale_tril: Tensor

    def log_prob(self, t: Tensor) -> Tensor:
        """Log density at t (*samples, b, d)."""
        return mixture_log_density(self.log_weights, self.means, self.scale_tril, t)

    def mixture(self) -> MultivariateMixture:
        """The same as a checked distribution."""
        return MultivariateMixture(self.log_weights, self.means, self.scale_tril)


class DecoderBlock(nn.Module):
    """Tokens attend to one another, then to the observations, then pass a two-layer network; no dropout, no order.

    The output of the self-attention and the last layer of the network start at zero.

    Args:
        width, n_heads, hidden: sizes.
        norm: "post" normalises each sum, "pre" each branch's input.
    """

    def __init__(self, width: int, n_heads: int, hidden: int, norm: str) -> None:
        super().__init__()
        self.post = check_option("DecoderBlock", "norm", norm, ("post", "pre")) == "post"
        self.own, self.cross = MultiheadAttention(width, n_heads), MultiheadAttention(width, n_heads)
        nn.init.xavier_uniform_(self.cross.out.weight)
        last = nn.Linear(hidden, width)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), last)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))

    def forward(
        self, tokens: Float[Tensor, "b k e"], seen: Float[Tensor, "b m e"], mask: Bool[Tensor, "b m"]
    ) -> Float[Tensor, "b k e"]:
        """The tokens after one round."""
        tokens = self._add(0, tokens, lambda x: self.own(x, self.own.keys_values(x)))
        tokens = self._add(1, tokens, lambda x: self.cross(x, self.cross.keys_values(seen), mask))
        return self._add(2, tokens, self.mlp)

    def _add(self, i: int, tokens: Tensor, branch: nn.Module | object) -> Tensor:
        norm = self.norms[i]
        if self.post:
            out: Tensor = norm(tokens + branch(tokens))  # type: ignore[operator]
            return out
        added: Tensor = tokens + branch(norm(tokens))  # type: ignore[operator]
        return added


class DistributionNetwork(nn.Module):
    """Parameters of priors and observations -> the mixtures before and after the observations, of T(x).

    Args:
        family: of the priors.
        channels: numbers of a token of each channel, by name.
        settings: sizes.
        told: "constant" shows learnt constants in place of the prior, the control arm.
    """

    def __init__(
        self, family: Family, channels: Mapping[str, int], settings: DistributionSettings, *, told: str = "parameters"
    ) -> None:
        super().__init__()
        k = family.n_components if isinstance(family, MixtureFamily) else settings.n_components
        if not channels:
            raise ConfigError("DistributionNetwork: there is no channel of observations.")
        if settings.residual and not isinstance(family, MixtureFamily):
            raise ConfigError("DistributionNetwork: residual needs priors that are mixtures.")
        self.family, self.settings, self.told = family, settings, told
        self.channels = dict(channels)
        self.n_components = k
        d, width, hidden = family.n_dims, settings.width, settings.embed_hidden
        self.n_raw = 1 + 2 * d + d * (d - 1) // 2
        self.constant = nn.Parameter(torch.randn(k, width))
        if isinstance(family, MixtureFamily):
            self.embed = _mlp(self.n_raw, hidden, width)
            self.convert = nn.ModuleList()
        else:
            self.embed = nn.Sequential(_mlp(len(family.parameters), hidden, hidden), nn.GELU())
            self.convert = nn.ModuleList(_mlp(hidden, hidden, width) for _ in range(k))
        self.observe = nn.ModuleDict({name: _mlp(c, hidden, width) for name, c in channels.items()})
        self.blocks = nn.ModuleList(
            DecoderBlock(width, settings.n_heads, settings.hidden, settings.norm) for _ in range(settings.depth)
        )
        self.head = _mlp(width, hidden, self.n_raw)
        if settings.residual:  # at first the posterior is the prior
            last = self.head[-1]
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        self._add_scale("state", d)
        self._add_scale("params", len(family.parameters))
        for name, c in channels.items():
            self._add_scale(f"channel_{name}", c)

    def forward(self, params: Float[Tensor, "b p"], tokens: Mapping[str, Tensor]) -> tuple[Components, Components]:
        """The mixture after the observations, and the one decoded before them.

        Args:
            params: of the priors.
            tokens: channel -> (b, m, c); NaN where one is missing. Channels may be left out.
        """
        base = self._base(params)
        first = self._components(params, base)
        seen, mask = self._observed(tokens, len(params))
        current = first
        for block in self.blocks:
            current = block(current, seen, mask)
        return self._decode(current, base), self._decode(first, base)

    def set_scales(self, state: Tensor, features: Tensor, tokens: Mapping[str, Tensor]) -> None:
        """Shift and scale of everything that goes in and out, from draws: medians and quartiles."""
        self._set_scale("state", state)
        self._set_scale("params", features)
        for name, value in tokens.items():
            self._set_scale(f"channel_{name}", value.reshape(-1, value.shape[-1]))

    # parts -----------------------------------------------------------------------------------------------------

    def _components(self, params: Tensor, base: Components | None) -> Tensor:
        """Component tokens, (b, K, e)."""
        if self.told == "constant":
            return self.constant.expand(len(params), -1, -1)
        if base is not None:
            logit = base.log_weights - torch.log1p(-base.log_weights.exp().clamp(_EPS, 1 - _EPS))
            logit = logit.clamp(math.log(_EPS), -math.log(_EPS))
            parts = [logit.unsqueeze(-1), base.means, base.scale_tril.diagonal(dim1=-2, dim2=-1).log()]
            low = torch.tril_indices(self.family.n_dims, self.family.n_dims, -1)
            out: Tensor = self.embed(torch.cat([*parts, base.scale_tril[..., low[0], low[1]]], -1))
            return out
        h = self.embed(self._scaled("params", self.family.features(params)))
        return torch.stack([convert(h) for convert in self.convert], 1)

    def _base(self, params: Tensor) -> Components | None:
        """The prior as a mixture in the network's own scale, where the family is one."""
        if not isinstance(self.family, MixtureFamily):
            return None
        shift, scale = self._scale_of("state")
        if self.told == "constant":
            b, k, d = len(params), self.n_components, self.family.n_dims
            zero = torch.zeros(b, k, d, dtype=params.dtype, device=params.device)
            eye = torch.eye(d, dtype=params.dtype, device=params.device).expand(b, k, d, d)
            return Components(zero[..., 0] - math.log(k), zero, eye)
        mix = self.family.mixture(params)
        return Components(mix.log_weights, (mix.means - shift) / scale, mix.scale_tril / scale.unsqueeze(-1))

    def _observed(self, tokens: Mapping[str, Tensor], b: int) -> tuple[Tensor, Tensor]:
        """Observation tokens (b, m, e), and which of them are there (b, m)."""
        seen, mask = [], []
        for name, value in tokens.items():
            there = ~value.isnan().any(-1)
            filled = torch.where(there.unsqueeze(-1), value, self._scale_of(f"channel_{name}")[0])
            seen.append(self.observe[name](self._scaled(f"channel_{name}", filled).asinh()))
            mask.append(there)
        if not seen:
            like = self.constant
            return like.new_zeros(b, 0, self.settings.width), torch.zeros(b, 0, dtype=torch.bool, device=like.device)
        return torch.cat(seen, 1), torch.cat(mask, 1)

    def _decode(self, tokens: Tensor, base: Components | None) -> Components:
        """The mixture that component tokens stand for, in the scale of T(x)."""
        d = self.family.n_dims
        weight, mean, log_diagonal, lower = self.head(tokens).split([1, d, d, self.n_raw - 1 - 2 * d], -1)
        diagonal = log_diagonal.clamp(-_MOST_LOG, _MOST_LOG).exp() + _LEAST_SCALE
        factor = torch.diag_embed(diagonal)
        if d > 1:
            low = torch.tril_indices(d, d, -1, device=tokens.device)
            index = (low[0] * d + low[1]).expand_as(lower)
            factor = factor.flatten(-2).scatter(-1, index, lower).reshape(factor.shape)
        if self.settings.factor == "precision":
            factor = _factor_of_inverse(factor)
        logits = weight[..., 0]
        if self.settings.residual:
            assert base is not None
            logits = logits + base.log_weights
            mean = base.means + (base.scale_tril @ mean.unsqueeze(-1))[..., 0]
            factor = base.scale_tril @ factor
        shift, scale = self._scale_of("state")
        return Components(logits.log_softmax(-1), shift + scale * mean, scale.unsqueeze(-1) * factor)

    def _add_scale(self, name: str, n: int) -> None:
        self.register_buffer(f"{name}_shift", torch.zeros(n))
        self.register_buffer(f"{name}_scale", torch.ones(n))

    def _set_scale(self, name: str, values: Tensor) -> None:
        levels = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
        for i in range(values.shape[-1]):
            column = values[:, i].double()
            low, middle, high = torch.quantile(column[column.isfinite()][: 2**20], levels).tolist()
            spread = (high - low) / 1.349
            if not spread > 0:
                spread = float(column[column.isfinite()].std()) or 1.0
            getattr(self, f"{name}_shift")[i] = middle
            getattr(self, f"{name}_scale")[i] = spread if math.isfinite(spread) else 1.0

    def _scaled(self, name: str, values: Tensor) -> Tensor:
        shift, scale = self._scale_of(name)
        return (values - shift) / scale

    def _scale_of(self, name: str) -> tuple[Tensor, Tensor]:
        return self.get_buffer(f"{name}_shift"), self.get_buffer(f"{name}_scale")


def _mlp(n_in: int, hidden: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, hidden), nn.GELU(), nn.Linear(hidden, n_out))


def _factor_of_inverse(factor: Tensor) -> Tensor:
    """The lower factor of (F F^T)^-1."""
    if factor.shape[-1] == 1:
        return factor.reciprocal()
    found: Tensor = torch.linalg.cholesky(torch.cholesky_inverse(factor))
    return found
