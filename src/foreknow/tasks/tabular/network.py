"""The networks behind `TabularClassifier` and `TabularRegressor`: closed-form heads, read by a small set transformer.

One token per (row, class), or per row in regression, holds the scores of all heads, the target (context rows) and
what is known of the row's surroundings and of the table. Layers alternate attention over context rows, within a
class, and mixing over classes, within a row. So the networks are equivariant to rows and to classes, work for any
number of classes, and their cost does not grow with the number of columns once the heads are done. At the start they
are the combination of the heads, with the spread of its own left-out errors in regression.

Cost: heads O(n^3 + (n + m) n p), network O(c (n + m) n) for n context rows, m query rows, p features, c classes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from foreknow.common.errors import CheckpointError
from foreknow.common.rng import seeded_init
from foreknow.common.validate import check_int, check_option
from foreknow.core.checkpoint import Checkpoint
from foreknow.core.predictive.bar import bar_nll
from foreknow.core.prior import TARGETS
from foreknow.core.records import from_json, record, to_json
from foreknow.nn.attention import KeysValues, MultiheadAttention
from foreknow.tasks.tabular.heads import HeadSettings, Scores


@record
@dataclass(frozen=True)
class StackSettings:
    """Sizes of the network and its heads.

    Args:
        heads: the closed-form predictors.
        width: size of a token.
        depth: number of layers.
        n_heads: attention heads.
        task: "classification" or "regression".
        n_buckets: buckets of the predictive distribution of a regression.
    """

    heads: HeadSettings = field(default_factory=HeadSettings)
    width: int = 64
    depth: int = 4
    n_heads: int = 4
    task: str = "classification"
    n_buckets: int = 128

    def __post_init__(self) -> None:
        for name in ("width", "depth", "n_heads"):
            check_int("StackSettings", name, getattr(self, name), low=1)
        check_int("StackSettings", "n_buckets", self.n_buckets, low=8)
        check_option("StackSettings", "task", self.task, TARGETS)


class StackLayer(nn.Module):
    """Attention over context rows within a class, then a two-layer network that also sees the other classes."""

    def __init__(self, width: int, n_heads: int, *, mixes: bool) -> None:
        super().__init__()
        self.mixes = mixes
        self.attention_norm = nn.LayerNorm(width)
        self.attention = MultiheadAttention(width, n_heads, log_n_scaling="log")
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(3 * width if mixes else width, 2 * width)
        self.mlp_out = nn.Linear(2 * width, width)
        nn.init.zeros_(self.mlp_out.weight)
        nn.init.zeros_(self.mlp_out.bias)

    def keys_values(self, context: Float[Tensor, "tables classes n e"]) -> KeysValues:
        """Keys and values of the context rows, one set per table and class."""
        pair: KeysValues = self.attention.keys_values(self.attention_norm(context).flatten(0, 1))
        return pair

    def forward(
        self, tokens: Float[Tensor, "tables classes m e"], keys_values: KeysValues
    ) -> Float[Tensor, "tables classes m e"]:
        """The tokens after reading the context and each other class."""
        read = self.attention(self.attention_norm(tokens).flatten(0, 1), keys_values)
        tokens = tokens + read.unflatten(0, tokens.shape[:2])
        own = self.mlp_norm(tokens)
        if self.mixes:
            others = torch.cat([own.mean(dim=1, keepdim=True), own.amax(dim=1, keepdim=True)], dim=-1)
            own = torch.cat([own, others.expand(-1, own.shape[1], -1, -1)], dim=-1)
        changed: Tensor = tokens + self.mlp_out(F.gelu(self.mlp_in(own)))
        return changed


class StackNetwork(nn.Module, ABC):
    """What both networks share: tokens of a context encoded once, tokens of queries that read it.

    A subclass writes `_features` (of a row), `table_of` (of the table), and reads the last tokens.
    """

    kind = "StackNetwork"

    def __init__(self, settings: StackSettings, n_features: int, n_outputs: int) -> None:
        super().__init__()
        self.settings = settings
        width, mixes = settings.width, settings.task == "classification"
        self.encoder = nn.Linear(n_features, width)
        self.layers = nn.ModuleList(StackLayer(width, settings.n_heads, mixes=mixes) for _ in range(settings.depth))
        self.out_norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, n_outputs)
        self.silence()

    @abstractmethod
    def _features(
        self, scores: Scores, targets: Float[Tensor, "b m c"] | None, table: Float[Tensor, "b c f"]
    ) -> Float[Tensor, "b m c p"]:
        """What a token is made of; `targets` of context rows, None for queries."""

    @abstractmethod
    def table_of(self, context: Scores, targets: Float[Tensor, "b n c"]) -> Float[Tensor, "b c f"]:
        """What is known of the table as a whole."""

    def encode(
        self, context: Scores, targets: Float[Tensor, "b n c"], table: Float[Tensor, "b c f"]
    ) -> list[KeysValues]:
        """Keys and values of the context in every layer."""
        tokens = self.encoder(self._features(context, targets, table)).transpose(1, 2)
        cache: list[KeysValues] = []
        for layer in self.layers:
            assert isinstance(layer, StackLayer)
            cache.append(layer.keys_values(tokens))
            tokens = layer(tokens, cache[-1])
        return cache

    def _written(self, cache: list[KeysValues], query: Scores, table: Float[Tensor, "b c f"]) -> Tensor:
        """The outputs of query rows, shape (b, m, c, n_outputs)."""
        tokens = self.encoder(self._features(query, None, table)).transpose(1, 2)
        for layer, pair in zip(self.layers, cache):
            tokens = layer(tokens, pair)
        written: Tensor = self.head(self.out_norm(tokens)).transpose(1, 2)
        return written

    @torch.no_grad()
    def silence(self) -> None:
        """Forget what training taught: the combination of the heads, as before the first step."""
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @torch.no_grad()
    def misapply(self) -> None:
        """A placebo: what the network learnt to do with each head, it does with another one, half the list away.

        It still reads every head's score and error as of one and the same head, and as many parameters act.
        """
        h = self.settings.heads.n_scores - 1  # the combination, last, keeps its place
        weight = self.encoder.weight
        for start in (0, weight.shape[1] - h - 1):
            weight[:, start : start + h] = weight[:, start : start + h].roll(h // 2, dims=1)

    def to_checkpoint(self, prior: object, training: dict[str, Any]) -> Checkpoint:
        """The network, the prior it was fitted to and how, ready to be saved."""
        config = {"settings": to_json(self.settings), "prior": to_json(prior)}
        tensors = {name: tensor.detach() for name, tensor in self.state_dict().items()}
        return Checkpoint(kind=StackNetwork.kind, config=config, tensors=tensors, training=training)

    @staticmethod
    def of(settings: StackSettings) -> ClassifierStack | RegressorStack:
        """A network of random weights for the task of the settings."""
        return ClassifierStack(settings) if settings.task == "classification" else RegressorStack(settings)

    @staticmethod
    def from_checkpoint(path: str | Path, task: str) -> ClassifierStack | RegressorStack:
        """The network of a file.

        Raises:
            CheckpointError: if the file is not one of these, or for another task.
        """
        checkpoint = Checkpoint.load(path, kind=StackNetwork.kind)
        try:
            settings = from_json(checkpoint.config["settings"])
        except KeyError as error:
            raise CheckpointError(f"the file's configuration lacks {error}.") from error
        if not isinstance(settings, StackSettings):
            raise CheckpointError("the file's configuration is not that of a StackNetwork.")
        if settings.task != task:
            raise CheckpointError(f"the file holds a network for {settings.task}, not for {task}.")
        with seeded_init(0):
            network = StackNetwork.of(settings)
        checkpoint.load_into(network)
        return network.eval()


class ClassifierStack(StackNetwork):
    """Head scores of context and queries, and the context's labels -> class logits of the queries."""

    def __init__(self, settings: StackSettings) -> None:
        # scores, their mean and spread, label and its residual, "is context", local error, distance; of the table
        # four facts and the errors of the heads
        n_scores = settings.heads.n_scores
        super().__init__(settings, n_scores + 11 + n_scores, n_scores + 1)

    def table_of(self, context: Scores, targets: Float[Tensor, "b n c"]) -> Float[Tensor, "b c f"]:
        """Log frequency of the class, log n, log number of classes, error of the combination; errors of the heads."""
        n, c = targets.shape[1:]
        frequency = ((targets.sum(dim=1) + 0.5) / (n + 0.5 * c)).log()
        constant = torch.ones_like(frequency)
        error = (targets - context.heads[..., -1]).square().mean(dim=(1, 2)).clamp_min(1e-12).sqrt()
        facts = [frequency, (math.log(n) / 3 - 1.5) * constant, (math.log(c) - 1) * constant, error[:, None] * constant]
        return torch.cat([torch.stack(facts, dim=-1), _head_errors(context, targets).expand(-1, c, -1)], dim=-1)

    def _features(
        self, scores: Scores, targets: Float[Tensor, "b m c"] | None, table: Float[Tensor, "b c f"]
    ) -> Float[Tensor, "b m c p"]:
        heads = scores.heads
        combined = heads[..., -1]
        known = torch.zeros_like(combined) if targets is None else targets
        facts = [
            heads.mean(dim=-1) * 2,
            heads.std(dim=-1) * 4,
            known,
            torch.zeros_like(combined) if targets is None else targets - combined,
            torch.full_like(combined, 0.0 if targets is None else 1.0),
            scores.error * 2,
            scores.distance[..., None].expand_as(combined) / 4,
        ]
        of_table = torch.cat([table[..., :1] / 2, table[..., 1:]], dim=-1)[:, None].expand(-1, heads.shape[1], -1, -1)
        return torch.cat([heads * 2, torch.stack(facts, dim=-1), of_table], dim=-1)

    def read(self, cache: list[KeysValues], query: Scores, table: Float[Tensor, "b c f"]) -> Float[Tensor, "b m c"]:
        """Logits of query rows."""
        written = self._written(cache, query, table)
        logits: Tensor = (written[..., :-1] * query.heads).sum(dim=-1) + written[..., -1]
        return logits + _TEMPERATURE * query.heads[..., -1] + 0.5 * table[:, None, :, 0]

    def forward(self, context: Scores, query: Scores, targets: Float[Tensor, "b n c"]) -> Float[Tensor, "b m c"]:
        """`read(encode(context), query)`."""
        table = self.table_of(context, targets)
        return self.read(self.encode(context, targets, table), query, table)

    def loss(self, context: Scores, query: Scores, targets: Tensor, query_y: Float[Tensor, "b m"]) -> Tensor:
        """Mean negative log-likelihood of the query labels, in nats."""
        logits = self(context, query, targets)
        return F.cross_entropy(logits.flatten(0, 1), query_y.long().flatten())


_TEMPERATURE = 6.0
"""What the combination of the heads is multiplied by."""


class RegressorStack(StackNetwork):
    """Head scores of context and queries, and the context's standardised targets -> a bar distribution per query.

    The buckets are those of (y - location) / scale: the location is a combination of the heads that varies from row
    to row, the scale is the table's, the root mean square of the left-out errors.
    """

    borders: Float[Tensor, " k_plus_1"]
    start: Float[Tensor, " k"]

    def __init__(self, settings: StackSettings) -> None:
        # differences of the heads, their spread, combination, target and its residual, "is context", local error,
        # distance; of the table log n, log scale and the errors of the heads
        n_scores = settings.heads.n_scores
        super().__init__(settings, n_scores + 8 + n_scores, n_scores + 1 + settings.n_buckets)
        reach = math.asinh(_REACH / _FINE)
        even = torch.linspace(-reach, reach, settings.n_buckets + 1, dtype=torch.float64)
        self.register_buffer("borders", (_FINE * even.sinh()).float())
        self.register_buffer("start", _start(even.sinh() * _FINE).float())

    def table_of(self, context: Scores, targets: Float[Tensor, "b n 1"]) -> Float[Tensor, "b 1 f"]:
        """Log n, the scale (root mean square of the left-out errors of the combination), and the heads' errors."""
        scale = (targets - context.heads[..., -1]).square().mean(dim=1).clamp_min(1e-8).sqrt()
        facts = torch.stack([torch.full_like(scale, math.log(targets.shape[1]) / 3 - 1.5), scale], dim=-1)
        return torch.cat([facts, _head_errors(context, targets)], dim=-1)

    def _features(
        self, scores: Scores, targets: Float[Tensor, "b m 1"] | None, table: Float[Tensor, "b 1 f"]
    ) -> Float[Tensor, "b m 1 p"]:
        heads = scores.heads
        combined, scale = heads[..., -1], table[:, None, :, 1]
        apart = (heads[..., :-1] - combined[..., None]) / scale[..., None]
        zero = torch.zeros_like(combined)
        facts = [
            apart.std(dim=-1),
            combined,
            zero if targets is None else targets,
            zero if targets is None else (targets - combined) / scale,
            zero if targets is None else zero + 1,
            (scores.error / scale).log(),
            scores.distance[..., None] / 4,
            zero + table[:, None, :, 0],
            zero + scale.log() / 2,
        ]
        errors = table[:, None, :, 2:].expand(-1, heads.shape[1], -1, -1)
        return _squash(torch.cat([apart, torch.stack(facts, dim=-1), errors], dim=-1))

    def read(
        self, cache: list[KeysValues], query: Scores, table: Float[Tensor, "b 1 f"]
    ) -> tuple[Float[Tensor, "b m"], Float[Tensor, "b m k"]]:
        """Location of every query row, and the logits of its buckets."""
        written = self._written(cache, query, table)[:, :, 0]
        n_scores = self.settings.heads.n_scores
        heads, scale = query.heads[:, :, 0], table[:, :, 1]
        # Weights act on differences from the combination, so that what is constant in the heads stays.
        moved = (written[..., :n_scores] * _squash((heads - heads[..., -1:]) / scale[..., None])).sum(dim=-1)
        location = heads[..., -1] + scale * (moved / n_scores + 0.1 * written[..., n_scores])
        return location, self.start + written[..., n_scores + 1 :]

    def forward(
        self, context: Scores, query: Scores, targets: Float[Tensor, "b n 1"]
    ) -> tuple[Float[Tensor, "b m"], Float[Tensor, "b m k"], Float[Tensor, "b 1"]]:
        """Location, logits and scale of the queries' distributions."""
        table = self.table_of(context, targets)
        return *self.read(self.encode(context, targets, table), query, table), table[:, :, 1]

    def loss(self, context: Scores, query: Scores, targets: Tensor, query_y: Float[Tensor, "b m"]) -> Tensor:
        """Mean negative log density of the query targets over the combination's scale, plus the location's error.

        Buckets are flat, so the density tells the location nothing; it learns from its own (Huber) error.
        """
        location, logits, scale = self(context, query, targets)
        error = (query_y - location) / scale
        nll = bar_nll(logits, self.borders, error.detach()).clamp_max(_LARGEST_LOSS)
        return nll.mean() + F.smooth_l1_loss(error, torch.zeros_like(error), beta=2.0)


def _head_errors(context: Scores, targets: Float[Tensor, "b n c"]) -> Float[Tensor, "b 1 h"]:
    """Logarithm of the left-out root mean square error of every head over that of the combination, times two."""
    squared = (targets[..., None] - context.heads).square().mean(dim=(1, 2)).clamp_min(1e-12)
    relative: Tensor = (squared / squared[:, -1:]).log().clamp(-4, 4)
    return relative[:, None]


_FINE, _REACH = 0.05, 8.0
"""Buckets of regression: even in asinh(error / 0.05), up to 8 scales from the location."""

_LARGEST_LOSS = 20.0


def _squash(x: Tensor) -> Tensor:
    """Smoothly clipped to -5..5."""
    return 5 * torch.tanh(x / 5)


def _start(borders: Tensor) -> Tensor:
    """Log-probabilities of the buckets under Student's t with four degrees of freedom and unit variance."""
    t = borders * math.sqrt(2.0)
    below = 0.5 + t * (t.square() + 6) / (2 * (t.square() + 4) ** 1.5)
    below[0], below[-1] = 0.0, 1.0
    return below.diff().clamp_min(1e-12).log()
