"""The network of prior-data fitting: row tokens, context attention, a head for numbers or classes.

`PFNNetwork` is a plain `nn.Module`. `pretrain_network` fits one to draws from a prior: it minimises
E[-log q(y* | x*, D)], which is the expected Kullback-Leibler divergence from the exact posterior predictive
plus a constant (Müller et al. 2022, Corollary 1.1).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Unpack

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from foreknow.common.errors import CheckpointError, ConfigError
from foreknow.common.rng import seed_of, seeded_init, torch_stream
from foreknow.common.validate import check_int, check_option, check_real
from foreknow.core.batch import Batch
from foreknow.core.checkpoint import Checkpoint
from foreknow.core.predictive import Bar, Categorical, bar_nll, borders_from_samples
from foreknow.core.prior import Simulator
from foreknow.core.records import from_json, record, to_json
from foreknow.nn.attention import ContextCache, SetTransformer
from foreknow.nn.bar_head import BarHead
from foreknow.train.config import TrainConfig
from foreknow.train.loop import RunOptions, TrainResult, train


@record
@dataclass(frozen=True)
class PFNSettings:
    """Sizes and schedule of one pre-training.

    Args:
        width: size of a row's token ("emsize").
        depth: number of attention blocks.
        n_heads: attention heads; must divide `width`.
        norm: "post" (published) or "pre".
        n_buckets: buckets of the bar head; not used for classes.
        n_rows: rows of a training task, context and query together ("T").
        batch_size: tasks per step and per accumulated part.
        accumulate: parts whose gradients are added before one step.
        n_steps: optimiser steps.
        lr: peak learning rate; None takes the published rule 0.003239 - 0.0001395 ln(#parameters).
        cut: how the number of context rows is drawn: "weighted" p(i) ~ 1/(T - i), so that all sizes are learnt
            equally well, or "uniform".
        dropout: published: 0, and 0.5 in the tabular runs.
        optimizer: "adam" (published), "adamw" or "muon".
        ema_decay: decay of the averaged weights that are kept at the end, or None.
    """

    width: int = 64
    depth: int = 3
    n_heads: int = 4
    norm: str = "post"
    n_buckets: int = 100
    n_rows: int = 31
    batch_size: int = 128
    accumulate: int = 1
    n_steps: int = 4000
    lr: float | None = 1e-3
    cut: str = "weighted"
    dropout: float = 0.0
    optimizer: str = "adam"
    ema_decay: float | None = None

    def __post_init__(self) -> None:
        owner = "PFNSettings"
        for name in ("width", "depth", "n_heads", "batch_size", "accumulate", "n_steps"):
            check_int(owner, name, getattr(self, name), low=1)
        check_int(owner, "n_buckets", self.n_buckets, low=4)
        check_int(owner, "n_rows", self.n_rows, low=2)
        check_option(owner, "cut", self.cut, ("weighted", "uniform"))
        check_option(owner, "norm", self.norm, ("post", "pre"))
        check_real(owner, "dropout", self.dropout, low=0.0, high=0.9)
        if self.lr is not None:
            check_real(owner, "lr", self.lr, low=0.0, open_low=True)


class PFNNetwork(nn.Module):
    """A transformer that maps a context and query inputs to a predictive distribution in one pass.

    Args:
        n_features: columns of the input, d.
        n_classes: classes of the target, or 0 for a number (bar head).
        settings: sizes.
        borders: borders of the bar head, shape (n_buckets + 1,); the even grid of the head if None.

    Cost: O((n + m) n) in context rows n and query rows m, O(d) in columns.
    """

    x_shift: Tensor
    x_scale: Tensor

    def __init__(
        self, n_features: int, n_classes: int, settings: PFNSettings, borders: Float[Tensor, " k_plus_1"] | None = None
    ) -> None:
        super().__init__()
        check_int("PFNNetwork", "n_features", n_features, low=1)
        check_int("PFNNetwork", "n_classes", n_classes, low=0)
        width = settings.width
        self.n_features = n_features
        self.n_classes = n_classes
        self.settings = settings
        self.x_encoder = nn.Linear(n_features, width)
        self.register_buffer("x_shift", torch.tensor(0.0))
        self.register_buffer("x_scale", torch.tensor(1.0))
        self.y_encoder = nn.Linear(max(n_classes, 1), width)
        self.transformer = SetTransformer(
            width, settings.depth, settings.n_heads, 2 * width, norm=settings.norm, dropout=settings.dropout
        )
        self.head: nn.Module
        if n_classes:
            self.head = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, n_classes))
        else:
            self.head = BarHead(width, settings.n_buckets, borders=borders)

    @property
    def borders(self) -> Tensor:
        """Borders of the bar head, shape (n_buckets + 1,)."""
        if not isinstance(self.head, BarHead):
            raise ConfigError("PFNNetwork: a network for classes has no borders.")
        return self.head.borders

    def _embed(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n e"]:
        """Tokens of the inputs; missing cells count as the prior's mean."""
        embedded: Tensor = self.x_encoder(((x - self.x_shift) * self.x_scale).nan_to_num(0.0))
        return embedded

    def encode(self, context_x: Float[Tensor, "b n d"], context_y: Float[Tensor, "b n"]) -> ContextCache:
        """The context as keys and values of every layer; done once for any number of queries."""
        labels = F.one_hot(context_y.long(), self.n_classes).to(context_x) if self.n_classes else context_y[..., None]
        return self.transformer.encode_context(self._embed(context_x) + self.y_encoder(labels))

    def read(self, cache: ContextCache, query_x: Float[Tensor, "b m d"]) -> Float[Tensor, "b m k"]:
        """Logits of every query, over classes or buckets."""
        logits: Tensor = self.head(self.transformer.read(cache, self._embed(query_x)))
        return logits

    def forward(
        self, context_x: Float[Tensor, "b n d"], context_y: Float[Tensor, "b n"], query_x: Float[Tensor, "b m d"]
    ) -> Float[Tensor, "b m k"]:
        """`read(encode(context), query_x)`."""
        return self.read(self.encode(context_x, context_y), query_x)

    def distribution(self, logits: Float[Tensor, "*batch k"]) -> Bar | Categorical:
        """The predictive distribution that these logits stand for."""
        return Categorical(logits) if self.n_classes else Bar(logits, self.borders.to(logits))

    def nll(self, logits: Float[Tensor, "b m k"], query_y: Float[Tensor, "b m"]) -> Float[Tensor, "b m"]:
        """Negative log-likelihood of the query targets, in nats."""
        if self.n_classes:
            return F.cross_entropy(logits.transpose(1, 2), query_y.long(), reduction="none")
        return bar_nll(logits, self.borders, query_y)

    def to_checkpoint(self, prior: Simulator, training: dict[str, Any]) -> Checkpoint:
        """The network, the prior it was fitted to and how, ready to be saved."""
        config = {
            "settings": to_json(self.settings),
            "n_features": self.n_features,
            "n_classes": self.n_classes,
            "prior": to_json(prior),
        }
        tensors = {name: tensor.detach() for name, tensor in self.state_dict().items()}
        return Checkpoint(kind="PFNNetwork", config=config, tensors=tensors, training=training)

    @classmethod
    def from_checkpoint(cls, source: Checkpoint | str | Path) -> tuple[PFNNetwork, Simulator]:
        """The network and the prior it was fitted to.

        Raises:
            CheckpointError: if the file is not one of these.
        """
        checkpoint = source if isinstance(source, Checkpoint) else Checkpoint.load(source, kind="PFNNetwork")
        try:
            settings = from_json(checkpoint.config["settings"])
            prior = from_json(checkpoint.config["prior"])
            sizes = int(checkpoint.config["n_features"]), int(checkpoint.config["n_classes"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"the file's configuration is not that of a PFNNetwork: {error}") from error
        if not isinstance(settings, PFNSettings) or not isinstance(prior, Simulator):
            raise CheckpointError("the file's configuration is not that of a PFNNetwork.")
        with seeded_init(0):
            network = cls(*sizes, settings)
        checkpoint.load_into(network)
        return network.eval(), prior


_MOST_DRAWS = 2**23  # torch sorts no more than 2^24 numbers at a time


def build_network(prior: Simulator, settings: PFNSettings, *, seed: int = 0) -> PFNNetwork:
    """An untrained network for the tasks of `prior`; bar borders sit at quantiles of y under the prior."""
    n_classes = int(getattr(prior, "n_classes", 0)) if prior.target == "classification" else 0
    borders = None
    if not n_classes:
        n_rows = min(settings.n_rows, 100)
        # Borders want 100 draws a bucket, over many tasks: rows of one task are not independent.
        n_tasks = math.ceil(200 * settings.n_buckets / n_rows)
        draws = prior.sample(n_tasks, n_context=0, n_query=n_rows, generator=torch_stream(seed, "borders")).query_y
        assert draws is not None  # a simulator knows its targets
        borders = borders_from_samples(draws.flatten(), settings.n_buckets)
        # Half of a tail bucket's mass lies within its width: so that this holds under the prior, the outermost
        # borders are the medians of the tails, not the most extreme draws.
        half = 0.5 / settings.n_buckets
        ends = torch.quantile(draws.flatten()[:_MOST_DRAWS].double(), torch.tensor([half, 1 - half]).double())
        borders[0], borders[-1] = ends[0].float(), ends[1].float()
    with seeded_init(seed_of(seed, "init")):
        network = PFNNetwork(prior.n_features, n_classes, settings, borders)
    if getattr(prior, "x", None) == "uniform":
        # Inputs on [0, 1] barely move a freshly drawn layer: spread them to mean 0 and standard deviation 2.
        network.x_shift.fill_(0.5)
        network.x_scale.fill_(2 * math.sqrt(12.0))
    return network


def draw_cut(settings: PFNSettings, generator: torch.Generator) -> int:
    """The number of context rows of a step, in 0..n_rows-1 (Müller et al. 2022, appendix on training)."""
    n = settings.n_rows
    weights = torch.ones(n, device=generator.device)
    if settings.cut == "weighted":
        weights = weights / (n - torch.arange(n, device=generator.device))
    return int(torch.multinomial(weights, 1, generator=generator))


def published_lr(n_parameters: int) -> float:
    """The released code's rule for the learning rate where none is given."""
    return 0.003239 - 0.0001395 * math.log(n_parameters)


def pretrain_network(
    prior: Simulator,
    settings: PFNSettings,
    *,
    seed: int = 0,
    network: PFNNetwork | None = None,
    minutes: float | None = None,
    device: str | torch.device = "auto",
    **options: Unpack[RunOptions],
) -> tuple[PFNNetwork, TrainResult]:
    """Fit a network to fresh draws from `prior`.

    Args:
        prior: the simulator; draws are made on the training device.
        settings: sizes and schedule.
        seed: of the weights and of every draw; step k depends on (seed, k) only.
        network: start from this one instead of a new one.
        minutes: wall-clock budget instead of `settings.n_steps`; the schedule still finishes.
        device: where to train.
        options: devices, progress, log_path, checkpoint_path and resume, as in `train`.

    Returns:
        The network in evaluation mode, and what the loop has to say.
    """
    from foreknow.common.device import resolve_device

    place = resolve_device(device)
    if network is None:
        network = build_network(prior, settings, seed=seed)
    lr = settings.lr or published_lr(sum(p.numel() for p in network.parameters()))

    config = TrainConfig(
        n_steps=None if minutes else settings.n_steps,
        minutes=minutes,
        lr=lr,
        optimizer=settings.optimizer,
        warmup_fraction=0.25 if settings.optimizer == "adam" else 0.05,
        clip_norm=1.0,
        accumulate=settings.accumulate,
        ema_decay=settings.ema_decay,
        seed=seed,
    )

    result = train(
        network,
        _loss,
        _Batches(prior, settings, seed, place.type),
        config,
        device=place,
        identity={"prior": to_json(prior), "settings": {**asdict(settings), "n_steps": None}},
        **options,
    )
    return network.eval(), result


@dataclass(frozen=True)
class _Batches:
    """Step -> batch, a function of the step alone; picklable, so that several processes can share it."""

    prior: Simulator
    settings: PFNSettings
    seed: int
    device: str

    def __call__(self, step: int) -> Batch:
        cut = draw_cut(self.settings, torch_stream(self.seed, "cut", str(step)))
        generator = torch_stream(self.seed, "tasks", str(step), device=self.device)
        return self.prior.sample(
            self.settings.batch_size, n_context=cut, n_query=self.settings.n_rows - cut, generator=generator
        )


def _loss(module: nn.Module, batch: Batch) -> Tensor:
    """Mean negative log-likelihood of a batch's query targets, in nats."""
    assert isinstance(module, PFNNetwork) and batch.query_y is not None  # simulators know their targets
    logits = module(batch.context_x, batch.context_y, batch.query_x)
    return module.nll(logits, batch.query_y).mean()
