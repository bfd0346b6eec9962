"""The network of learning-curve extrapolation, and its training on draws from a prior over curves.

A token is Lin(norm(t)) + Lin((y - 1/2) sqrt(12)) with norm(t) = (t / 101 - 1/2) sqrt(12); queries have the first part
only. The head is a bar distribution over buckets at quantiles of noisy prior draws.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Unpack

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foreknow.common.device import resolve_device
from foreknow.common.errors import CheckpointError
from foreknow.common.rng import seed_of, seeded_init, torch_stream
from foreknow.common.validate import check_int, check_option, check_real
from foreknow.core.batch import Batch
from foreknow.core.checkpoint import Checkpoint
from foreknow.core.predictive import Bar, bar_nll, borders_from_samples
from foreknow.core.records import from_json, record, to_json
from foreknow.nn.attention import SetTransformer
from foreknow.nn.bar_head import BarHead
from foreknow.tasks.lc_pfn.prior import CurvePrior
from foreknow.train.config import TrainConfig
from foreknow.train.loop import RunOptions, TrainResult, train

MOST_EPOCHS = 100
"""Epochs the network knows, 1..100."""
_ROOT_12 = math.sqrt(12.0)
_BORDER_CURVES = 10_000
_MOST_DRAWS = 2**23  # torch.quantile takes no more than 2^24 numbers


@record
@dataclass(frozen=True)
class CurveSettings:
    """Sizes and schedule of one network.

    Args:
        width: size of a token.
        depth: attention blocks.
        n_heads: attention heads; must divide `width`.
        hidden: width of the blocks' two-layer networks.
        n_buckets: of the bar head.
        batch_size: curves a step.
        n_steps: optimiser steps.
        lr: peak learning rate.
        optimizer: "adamw" (published), "adam" or "muon".
        norm: "post" (published), "pre" or "rms".
        n_query: epochs predicted a curve and step, at most; 0 takes all.
        p_gaps: share of the steps whose context lacks a random part of its epochs.
        p_noiseless: share of the curves whose targets have no noise.
    """

    width: int = 128
    depth: int = 4
    n_heads: int = 4
    hidden: int = 256
    n_buckets: int = 500
    batch_size: int = 100
    n_steps: int = 10_000
    lr: float = 1e-3
    optimizer: str = "adamw"
    norm: str = "pre"
    n_query: int = 24
    p_gaps: float = 0.3
    p_noiseless: float = 0.25

    def __post_init__(self) -> None:
        owner = "CurveSettings"
        for name in ("width", "depth", "n_heads", "hidden", "batch_size", "n_steps"):
            check_int(owner, name, getattr(self, name), low=1)
        check_int(owner, "n_buckets", self.n_buckets, low=4)
        check_int(owner, "n_query", self.n_query, low=0)
        check_real(owner, "lr", self.lr, low=0.0, open_low=True)
        check_option(owner, "norm", self.norm, ("post", "pre", "rms"))
        for name in ("p_gaps", "p_noiseless"):
            check_real(owner, name, getattr(self, name), low=0.0, high=1.0)


class CurveNetwork(nn.Module):
    """Known epochs and values -> a distribution at each epoch that is asked for, in one pass.

    Inputs have two columns: the epoch, and for queries 1 where the value without noise is wanted (0 else).

    Args:
        settings: sizes.
        borders: of the bar head, shape (n_buckets + 1,); an even grid if None.

    Cost: O((n + m) n) in n known and m queried epochs.
    """

    def __init__(self, settings: CurveSettings, borders: Float[Tensor, " k_plus_1"] | None = None) -> None:
        super().__init__()
        width = settings.width
        self.settings = settings
        self.t_encoder = nn.Linear(1, width)
        self.y_encoder = nn.Linear(1, width)
        self.noiseless = nn.Parameter(torch.zeros(width))
        self.transformer = SetTransformer(width, settings.depth, settings.n_heads, settings.hidden, norm=settings.norm)
        self.head = BarHead(width, settings.n_buckets, borders=borders, hidden=settings.hidden)

    @property
    def borders(self) -> Tensor:
        """Borders of the bar head, shape (n_buckets + 1,)."""
        return self.head.borders

    def forward(
        self, context_x: Float[Tensor, "b n 2"], context_y: Float[Tensor, "b n"], query_x: Float[Tensor, "b m 2"]
    ) -> Float[Tensor, "b m k"]:
        """Logits of the buckets for every query."""
        context = self._embed(context_x) + self.y_encoder(((context_y - 0.5) * _ROOT_12)[..., None])
        logits: Tensor = self.head(self.transformer(context, self._embed(query_x)))
        return logits

    def _embed(self, x: Tensor) -> Tensor:
        token: Tensor = self.t_encoder((x[..., :1] / (MOST_EPOCHS + 1) - 0.5) * _ROOT_12)
        return token + x[..., 1:] * self.noiseless

    def distribution(self, logits: Float[Tensor, "*batch k"]) -> Bar:
        """The predictive distribution these logits stand for; noise may leave [0, 1]."""
        return Bar(logits, self.borders.to(logits))

    def nll(self, logits: Float[Tensor, "b m k"], query_y: Float[Tensor, "b m"]) -> Float[Tensor, "b m"]:
        """Negative log-likelihood of the query targets, in nats."""
        return bar_nll(logits, self.borders, query_y)

    def to_checkpoint(self, prior: CurvePrior, training: dict[str, Any]) -> Checkpoint:
        """The network, the prior it was fitted to and how, ready to be saved."""
        config = {"settings": to_json(self.settings), "prior": to_json(prior)}
        tensors = {name: tensor.detach() for name, tensor in self.state_dict().items()}
        return Checkpoint(kind="CurveNetwork", config=config, tensors=tensors, training=training)

    @classmethod
    def from_checkpoint(cls, source: Checkpoint | str | Path) -> tuple[CurveNetwork, CurvePrior]:
        """The network and the prior it was fitted to.

        Raises:
            CheckpointError: if the file is not one of these.
        """
        checkpoint = source if isinstance(source, Checkpoint) else Checkpoint.load(source, kind="CurveNetwork")
        settings, prior = (from_json(checkpoint.config.get(key)) for key in ("settings", "prior"))
        if not isinstance(settings, CurveSettings) or not isinstance(prior, CurvePrior):
            raise CheckpointError("the file's configuration is not that of a CurveNetwork.")
        with seeded_init(0):
            network = cls(settings)
        checkpoint.load_into(network)
        return network.eval(), prior


def build_network(prior: CurvePrior, settings: CurveSettings, *, seed: int = 0) -> CurveNetwork:
    """An untrained network; its borders sit at quantiles of noisy draws from `prior`, tails included."""
    n_curves = max(math.ceil(200 * settings.n_buckets / prior.n_epochs), min(_BORDER_CURVES, 20 * settings.n_buckets))
    draws = prior.sample(n_curves, generator=torch_stream(seed, "lc-pfn", "borders")).value.flatten()[:_MOST_DRAWS]
    borders = borders_from_samples(draws, settings.n_buckets)
    half = 0.5 / settings.n_buckets  # half of a tail's mass lies within its bucket
    borders[[0, -1]] = torch.quantile(draws, torch.tensor([half, 1 - half]))
    with seeded_init(seed_of(seed, "lc-pfn", "init")):
        return CurveNetwork(settings, borders)


def pretrain_network(
    prior: CurvePrior,
    settings: CurveSettings,
    *,
    seed: int = 0,
    minutes: float | None = None,
    device: str | torch.device = "auto",
    **options: Unpack[RunOptions],
) -> tuple[CurveNetwork, TrainResult]:
    """Fit a network to fresh draws from `prior`.

    Args:
        prior: of the curves; draws are made on the training device.
        settings: sizes and schedule.
        seed: of the weights and of every draw; step k depends on (seed, k) only.
        minutes: wall-clock budget instead of `settings.n_steps`; the schedule still finishes.
        device: where to train.
        options: devices, progress, log_path, checkpoint_path and resume, as in `train`.

    Returns:
        The network in evaluation mode, and what the loop has to say.
    """
    place = resolve_device(device)
    network = build_network(prior, settings, seed=seed)
    config = TrainConfig(
        n_steps=None if minutes else settings.n_steps,
        minutes=minutes,
        lr=settings.lr,
        optimizer=settings.optimizer,
        warmup_fraction=0.25,
        clip_norm=1.0,
        seed=seed,
        log_every=50,
    )
    result = train(
        network,
        _loss,
        Batches(prior, settings, seed, place.type),
        config,
        device=place,
        identity={"prior": to_json(prior), "settings": {**asdict(settings), "n_steps": None}},
        **options,
    )
    return network.eval(), result


@dataclass(frozen=True)
class Batches:
    """Step -> batch, a function of the step alone.

    The context of a step is epochs 1..c of every curve, c uniform on 0..T-1, in some steps with gaps; the queries are
    drawn from the epochs it leaves out. All curves of a step share both.
    """

    prior: CurvePrior
    settings: CurveSettings
    seed: int
    device: str

    def __call__(self, step: int) -> Batch:
        settings, n_epochs = self.settings, self.prior.n_epochs
        choose = torch_stream(self.seed, "lc-pfn", "cut", str(step))
        known = torch.arange(n_epochs) < torch.randint(n_epochs, (), generator=choose)
        if torch.rand((), generator=choose) < settings.p_gaps:
            known &= torch.rand(n_epochs, generator=choose) < torch.rand((), generator=choose)
        rest = (~known).nonzero()[:, 0]
        if settings.n_query:
            rest = rest[torch.randperm(len(rest), generator=choose)[: settings.n_query]]
        seen = known.nonzero()[:, 0]
        generator = torch_stream(self.seed, "lc-pfn", "curves", str(step), device=self.device)
        drawn = self.prior.sample(settings.batch_size, generator=generator)
        n_noiseless = round(settings.p_noiseless * settings.batch_size)
        target = torch.cat([drawn.info["clean"][:n_noiseless], drawn.value[n_noiseless:]])
        flags = torch.zeros(settings.batch_size)
        flags[:n_noiseless] = 1.0
        return Batch(
            inputs(seen + 1.0, settings.batch_size).to(self.device),
            drawn.value[:, seen.to(self.device)],
            inputs(rest + 1.0, flags).to(self.device),
            target[:, rest.to(self.device)],
        )


def inputs(epochs: Tensor, flags: Tensor | int) -> Tensor:
    """The network's inputs (b, n, 2) of shared epochs (n,): with each curve's flag (b,), or with none for b curves."""
    flags = torch.zeros(flags) if isinstance(flags, int) else flags
    grid = epochs.float().expand(len(flags), -1)
    return torch.stack([grid, flags.to(grid)[:, None].expand_as(grid)], dim=-1)


def _loss(module: nn.Module, batch: Batch) -> Tensor:
    """Mean negative log-likelihood of a batch's query targets, in nats."""
    assert isinstance(module, CurveNetwork) and batch.query_y is not None  # the prior knows its targets
    logits = module(batch.context_x, batch.context_y, batch.query_x)
    return module.nll(logits, batch.query_y).mean()
