"""Random networks as structural causal models, and as plain functions: the published prior.

Hollmann et al. (2023), section 4 and appendix C, with the hyper-parameters of the released sampler. A network
maps root causes through noisy layers, h_0 = W_0 causes + b_0, h_{l+1} = W_l act(h_l) + b_l + noise; columns
and target are nodes of the layers from h_1 on. With causes as columns and the last layer as target the same
network is the prior of Bayesian neural networks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from foreknow.common.errors import ConfigError
from foreknow.common.validate import check_bool, check_option, check_real
from foreknow.core.prior import Prior
from foreknow.core.registry import register
from foreknow.tasks.tabpfn.card import CARD
from foreknow.tasks.tabular.priors.base import N_SCORES, TablePrior, robust_standardise
from foreknow.tasks.tabular.priors.source import Source, root_causes

PUBLISHED = ("tanh", "identity", "relu")
"""Activations of the published prior."""

EXTENDED = (*PUBLISHED, "sine", "bump", "abs", "step", "elu")
"""And some more; these act on nodes standardised over the table."""

_BUCKET = 16  # tables of similar width that are computed together
_MAX_LAYERS, _MAX_WIDTH, _MAX_CAUSES = 10, 200, 40  # the published laws have tails; these cut less than 1 in 100


@dataclass(frozen=True)
class _Hyper:
    """One value per table, shape (b,)."""

    n_layers: Tensor
    width: Tensor
    n_causes: Tensor
    is_causal: Tensor
    y_is_effect: Tensor
    in_clique: Tensor
    block_wise: Tensor
    pre_sampled_noise: Tensor
    activation: Tensor
    weight_sd: Tensor
    p_drop: Tensor
    noise_sd: Tensor
    mixed: Tensor

    def of(self, tables: Tensor) -> _Hyper:
        return _Hyper(**{name: value[tables] for name, value in vars(self).items()})


@register(CARD)
@dataclass(frozen=True)
class SCMPrior(TablePrior):
    """Tables from random networks read as causal models, or as functions of independent causes.

    Per table, as published: layers 2 + gamma(2, 3), units 4 + gamma(3, 100) (in a causal model at least
    1 + 2 n_features), causes 2 + gamma(3, 7), weights of standard deviation trunc_norm_log(.01, 10), noise of
    trunc_norm_log(1e-4, .3) (per node |N(0, sd)| where pre-sampled), edges dropped with probability
    .6 Beta or, block-wise, outside up to sqrt(width) diagonal blocks; coins for causal or not, the target in
    the last layer or anywhere, columns from one contiguous window or from anywhere. Deviations: the target is
    never one of the columns (the released code allows it inside a window); `sort_features` is left out, as
    columns are permuted in the end; the tails of layers, units and causes are cut at 10, 200 and 40.

    Args:
        activations: one per table.
        p_mixed: share of tables with discrete and long-tailed causes among the normal ones (released run: 0).
        linear_only: identity activations only, the control arm without non-linearity.
        bnn_only: plain networks only, no causal models.
    """

    activations: tuple[str, ...] = PUBLISHED
    p_mixed: float = 0.4
    linear_only: bool = False
    bnn_only: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.activations:
            raise ConfigError(f"SCMPrior: activations is empty; it takes some of {', '.join(EXTENDED)}.")
        for name in self.activations:
            check_option("SCMPrior", "activations", name, EXTENDED)
        check_real("SCMPrior", "p_mixed", self.p_mixed, low=0, high=1)
        check_bool("SCMPrior", "linear_only", self.linear_only)
        check_bool("SCMPrior", "bnn_only", self.bnn_only)

    @classmethod
    def published(cls, n_features: int = 10, n_classes: int = 10) -> SCMPrior:
        """The released run: normal causes, a fifth of the tables with categories, nothing missing."""
        prior = cls(n_features=n_features, n_classes=n_classes, p_mixed=0.0)
        return replace(prior.plain(), p_categorical=0.2, imbalance=1.0, min_signal=0.0)

    @classmethod
    def examples(cls) -> list[Prior]:
        return [*super().examples()[:2], cls(n_features=3, task="regression", activations=EXTENDED, bnn_only=True)]

    def _hyper(self, b: int, source: Source) -> _Hyper:
        d = self.n_features
        is_causal = source.meta_coin(b) & (not self.bnn_only)
        n_layers = (2 + source.meta_gamma(2.0, 3.0, b).round().long()).clamp_max(_MAX_LAYERS)
        width = (4 + source.meta_gamma(3.0, 100.0, b).round().long()).clamp_max(_MAX_WIDTH)
        floor = max(1 + 2 * d, d + N_SCORES)
        causes = (2 + source.meta_gamma(3.0, 7.0, b).round().long()).clamp_max(_MAX_CAUSES)
        activation = source.meta_choice(len(self.activations), b, low=-5.0, high=6.0)
        if self.linear_only:
            activation = torch.full_like(activation, -1)
        return _Hyper(
            n_layers=n_layers + ~is_causal,  # a plain network has an output layer on top
            width=torch.where(is_causal, width.clamp_min(floor), width),
            n_causes=torch.where(is_causal, causes, d),
            is_causal=is_causal,
            y_is_effect=source.meta_coin(b),
            in_clique=source.meta_coin(b),
            block_wise=source.meta_coin(b),
            pre_sampled_noise=source.meta_coin(b),
            activation=activation,
            weight_sd=source.trunc_norm_log(0.01, 10.0, b),
            p_drop=source.meta_beta(0.6, 0.1, 5.0, b).clamp_max(0.99),
            noise_sd=source.trunc_norm_log(1e-4, 0.3, b),
            mixed=source.chance(self.p_mixed, b),
        )

    def _latent(self, n_tasks: int, n_rows: int, n_classes: Tensor, source: Source) -> tuple[Tensor, Tensor]:
        d = self.n_features
        hyper = self._hyper(n_tasks, source)
        nodes = torch.empty(n_tasks, n_rows, d + N_SCORES, device=source.device, dtype=source.dtype)
        for tables in torch.split(hyper.width.argsort(), _BUCKET):
            tables = tables[hyper.n_layers[tables].argsort(descending=True)]
            nodes[tables] = self._nodes(hyper.of(tables), n_rows, source)
        return nodes[..., :d], nodes[..., d:]

    def _nodes(self, hyper: _Hyper, n_rows: int, source: Source) -> Tensor:
        """Columns and scores (g, n, d + k) of tables in descending order of depth."""
        g, h = hyper.width.numel(), int(hyper.width.max())
        layer, unit = self._places(hyper, source)
        causes = root_causes(source, n_rows, hyper.n_causes, hyper.mixed)
        is_unit = torch.arange(h, device=source.device) < hyper.width[:, None]
        first = _weights(hyper, hyper.n_causes, (causes.shape[2], h), source, drop=False)
        bias = is_unit * (2 * source.uniform(g, h) - 1) / hyper.n_causes[:, None].sqrt()
        value = torch.baddbmm(bias[:, None], causes, first)
        nodes = torch.zeros(g, n_rows, unit.shape[1], device=source.device, dtype=source.dtype)
        depths = hyper.n_layers.tolist()
        for index in range(1, depths[0]):
            active = sum(depth > index for depth in depths)  # the first ones, as they are sorted by depth
            part = hyper.of(torch.arange(active, device=source.device))
            value = self._activate(value[:active], part.activation)
            bias = is_unit[:active] * (2 * source.uniform(active, h) - 1) / part.width[:, None].sqrt()
            value = torch.baddbmm(bias[:, None], value, _weights(part, part.width, (h, h), source, drop=True))
            sd = part.noise_sd[:, None].expand(active, h)
            sd = torch.where(part.pre_sampled_noise[:, None], (sd * source.normal(active, h)).abs(), sd)
            value = value + (sd * is_unit[:active])[:, None] * source.normal(active, n_rows, h)
            here = value.gather(2, unit[:active, None].expand(active, n_rows, -1))
            nodes[:active] = torch.where((layer[:active] == index)[:, None], here, nodes[:active])
        # A plain network shows its causes.
        d = self.n_features
        if causes.shape[2] < d:
            causes = torch.nn.functional.pad(causes, (0, d - causes.shape[2]))
        nodes[..., :d] = torch.where(hyper.is_causal[:, None, None], nodes[..., :d], causes[..., :d])
        return nodes

    def _places(self, hyper: _Hyper, source: Source) -> tuple[Tensor, Tensor]:
        """Layer (from 1) and unit of each column and score, both (g, d + k)."""
        g, d = hyper.width.numel(), self.n_features
        total = (hyper.n_layers - 1) * hyper.width
        # Scores are the last nodes, or any; columns are drawn from what is left, or from a window of it.
        last = hyper.y_is_effect | ~hyper.is_causal
        free = total - N_SCORES * last
        wanted = d + N_SCORES * ~last
        window = torch.where(hyper.in_clique, wanted, free)
        start = source.integers(0, (free - window).clamp_min(0), g)
        place = torch.arange(max(int(total.max()), d + N_SCORES), device=source.device)
        outside = (place < start[:, None]) | (place >= (start + window)[:, None])
        keys = source.uniform(g, place.numel()) + outside
        flat = keys.topk(d + N_SCORES, dim=1, largest=False).indices
        effect = total[:, None] - 1 - torch.arange(N_SCORES, device=source.device)
        flat[:, d:] = torch.where(last[:, None], effect.clamp_min(0), flat[:, d:])
        layer = 1 + flat.div(hyper.width[:, None], rounding_mode="floor")
        return layer, flat % hyper.width[:, None]

    def _activate(self, value: Tensor, activation: Tensor) -> Tensor:
        kinds = activation.tolist()
        if all(kind < 0 or self.activations[kind] == "identity" for kind in kinds):
            return value
        out = value.clone()
        for kind in set(kinds):
            if kind >= 0 and self.activations[kind] != "identity":
                tables = (activation == kind).nonzero()[:, 0]
                out[tables] = activate(self.activations[kind], value[tables])
        return out


def activate(name: str, value: Tensor) -> Tensor:
    """One of `EXTENDED` on nodes (g, n, h)."""
    if name == "tanh":
        return value.tanh()
    if name == "relu":
        return value.relu()
    if name == "identity":
        return value
    z = robust_standardise(value)
    if name == "sine":
        return (2 * z).sin()
    if name == "bump":
        return (-0.5 * z.square()).exp()
    if name == "abs":
        return z.abs()
    if name == "step":
        return z.sign()
    return torch.nn.functional.elu(z)


def _weights(hyper: _Hyper, n_in: Tensor, shape: tuple[int, int], source: Source, *, drop: bool) -> Tensor:
    """Weights (g, *shape) of layers with `n_in` inputs, zero outside each table's own size.

    Edges are dropped one by one or block-wise; what is kept is made larger, as published.
    """
    g, (rows, columns), n_out = n_in.numel(), shape, hyper.width
    i, j = torch.arange(rows, device=source.device), torch.arange(columns, device=source.device)
    most = torch.minimum(n_in, n_out).to(source.dtype).sqrt().ceil().long()
    blocks = source.integers(1, most, g)
    tall, wide = n_in // blocks, n_out // blocks
    row, column = i // tall[:, None], j // wide[:, None]
    inside = (row[:, :, None] == column[:, None]) & (row < blocks[:, None])[:, :, None]
    share = (blocks * tall * wide) / (n_in * n_out)
    p = hyper.p_drop if drop else torch.zeros_like(hyper.p_drop)
    kept = source.uniform(g, rows, columns) >= p[:, None, None]
    block_wise = hyper.block_wise[:, None, None]
    sd = hyper.weight_sd / torch.where(hyper.block_wise, share.sqrt(), 1 - p.sqrt())
    valid = (i < n_in[:, None])[:, :, None] & (j < n_out[:, None])[:, None]
    mask = torch.where(block_wise, inside, kept) & valid
    return sd[:, None, None] * mask * source.normal(g, rows, columns)
