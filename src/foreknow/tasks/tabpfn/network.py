"""The published network: one token per row, and what both forms share.

Hollmann et al. (2023), with the sizes of the released code: 12 blocks, width 512, 4 heads, GELU networks of 1024,
25.82 M parameters. Features are padded with zeros to 100 and scaled by 100 / used; the label enters through a linear
layer of its code; context rows see each other, query rows see the context.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from foreknow.common.errors import CheckpointError, ConfigError
from foreknow.common.rng import seeded_init
from foreknow.common.validate import check_int, check_option
from foreknow.core.checkpoint import Checkpoint
from foreknow.core.predictive import Bar, Categorical, bar_nll
from foreknow.core.records import from_json, record, to_json
from foreknow.nn.attention import ContextCache, SetTransformer
from foreknow.nn.bar_head import BarHead

TASKS = ("classification", "regression")


class TableNetwork(nn.Module, ABC):
    """A network that reads a table in context: `read(encode(context), query)`.

    Class codes are 0..k-1, targets of regression standardised by the context. Cells may be NaN.
    """

    settings: Any
    bar: BarHead | None

    @abstractmethod
    def encode(
        self,
        context_x: Float[Tensor, "b n d"],
        context_y: Float[Tensor, "b n"],
        *,
        n_classes: int | None = None,
        slots: Int[Tensor, "b s"] | None = None,
    ) -> Any:
        """The context, encoded once for any number of queries.

        Args:
            context_x: columns, standardised by the context.
            context_y: class codes, or standardised numbers.
            n_classes: number k of classes of these tables; None takes the largest code and one.
            slots: which label embedding each class uses; None keeps the order. Only the cell form has slots.
        """

    @abstractmethod
    def read(self, cache: Any, query_x: Float[Tensor, "b m d"]) -> Float[Tensor, "b m k"]:
        """Logits over classes or buckets; no query sees another one."""

    def forward(
        self,
        context_x: Float[Tensor, "b n d"],
        context_y: Float[Tensor, "b n"],
        query_x: Float[Tensor, "b m d"],
        *,
        n_classes: int | None = None,
        slots: Int[Tensor, "b s"] | None = None,
    ) -> Float[Tensor, "b m k"]:
        """`read(encode(context), query_x)`."""
        return self.read(self.encode(context_x, context_y, n_classes=n_classes, slots=slots), query_x)

    def distribution(self, logits: Float[Tensor, "*batch k"]) -> Bar | Categorical:
        """The predictive distribution that these logits stand for."""
        return Categorical(logits) if self.bar is None else Bar(logits, self.bar.borders.to(logits))

    def nll(self, logits: Float[Tensor, "b m k"], query_y: Float[Tensor, "b m"]) -> Float[Tensor, "b m"]:
        """Negative log-likelihood of the query targets, in nats."""
        if self.bar is None:
            return F.cross_entropy(logits.float().transpose(1, 2), query_y.long(), reduction="none")
        return bar_nll(logits, self.bar.borders, query_y)

    def to_checkpoint(self, prior: object, training: dict[str, Any]) -> Checkpoint:
        """The network, the prior it was fitted to and how, ready to be saved."""
        config = {"settings": to_json(self.settings), "prior": to_json(prior)}
        tensors = {name: tensor.detach() for name, tensor in self.state_dict().items()}
        return Checkpoint(kind="TableNetwork", config=config, tensors=tensors, training=training)

    def save(self, path: Path, prior: object, training: dict[str, Any]) -> None:
        """Write the network in half precision, the borders of its head in full."""
        keep = frozenset(name for name in self.state_dict() if name.endswith("borders"))
        self.to_checkpoint(prior, training).save(path, half=True, keep_full=keep)


@record
@dataclass(frozen=True)
class RowSettings:
    """Sizes of the row form; the defaults are the published ones.

    Args:
        task: "classification" or "regression" (an extension: a bar head over the standardised target).
        width: size of a row's token.
        depth: number of blocks.
        n_heads: attention heads.
        hidden: units of the blocks' two-layer networks and of the head's.
        max_features: columns of the input layer; tables with fewer are padded.
        n_classes: largest number of classes.
        n_buckets: buckets of the bar head.
    """

    task: str = "classification"
    width: int = 512
    depth: int = 12
    n_heads: int = 4
    hidden: int = 1024
    max_features: int = 100
    n_classes: int = 10
    n_buckets: int = 200

    def __post_init__(self) -> None:
        check_option("RowSettings", "task", self.task, TASKS)
        for name in ("width", "depth", "n_heads", "hidden", "max_features"):
            check_int("RowSettings", name, getattr(self, name), low=1)
        check_int("RowSettings", "n_classes", self.n_classes, low=2)
        check_int("RowSettings", "n_buckets", self.n_buckets, low=4)

    def build(self) -> RowTransformer:
        """An untrained network."""
        return RowTransformer(self)


class RowTransformer(TableNetwork):
    """One token per row; the published network.

    Missing cells count as zero, the mean of a standardised column. Attention branches and the second layers of the
    blocks' networks start at zero, so every block starts as the identity (up to its norm).

    Cost for n context rows, m query rows, d columns: O((n + m) n width + (n + m) width^2) per block, and one product
    with the d columns (always `max_features` wide) at the input: columns are nearly free, rows are quadratic.
    """

    settings: RowSettings

    def __init__(self, settings: RowSettings) -> None:
        super().__init__()
        self.settings = settings
        width, hidden = settings.width, settings.hidden
        self.x_encoder = nn.Linear(settings.max_features, width)
        self.y_encoder = nn.Linear(1, width)
        self.transformer = SetTransformer(width, settings.depth, settings.n_heads, hidden, norm="post")
        self.decoder: nn.Module | None = None
        self.bar = None
        if settings.task == "classification":
            self.decoder = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, settings.n_classes))
        else:
            self.bar = BarHead(width, settings.n_buckets, hidden=hidden)

    def _embed(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n e"]:
        used, most = x.shape[-1], self.settings.max_features
        if used > most:
            raise ConfigError(f"RowTransformer: a table has {used} columns, this network takes at most {most}.")
        embedded: Tensor = self.x_encoder(F.pad(x.nan_to_num(0.0) * (most / used), (0, most - used)))
        return embedded

    def encode(
        self,
        context_x: Float[Tensor, "b n d"],
        context_y: Float[Tensor, "b n"],
        *,
        n_classes: int | None = None,
        slots: Int[Tensor, "b s"] | None = None,
    ) -> ContextCache:
        """Keys and values of the context in every block; the logits are always over `settings.n_classes`."""
        label = self.y_encoder(context_y[..., None].to(context_x))
        return self.transformer.encode_context(self._embed(context_x) + label)

    def read(self, cache: ContextCache, query_x: Float[Tensor, "b m d"]) -> Float[Tensor, "b m k"]:
        head = self.decoder or self.bar
        assert head is not None  # one of the two is there
        logits: Tensor = head(self.transformer.read(cache, self._embed(query_x)))
        return logits


def load_network(source: Checkpoint | str | Path) -> tuple[TableNetwork, object]:
    """The network of a file, in evaluation mode, and the prior it was fitted to.

    Raises:
        CheckpointError: if the file is not one of these.
    """
    checkpoint = source if isinstance(source, Checkpoint) else Checkpoint.load(source, kind="TableNetwork")
    try:
        settings, prior = (from_json(checkpoint.config[name]) for name in ("settings", "prior"))
    except KeyError as error:
        raise CheckpointError(f"the file's configuration lacks {error}.") from error
    network = build_network(settings)
    checkpoint.load_into(network)
    return network.eval(), prior


def build_network(settings: object, *, seed: int = 0) -> TableNetwork:
    """An untrained network, its first weights drawn from `seed`.

    Raises:
        CheckpointError: if these are not the settings of a network of tables.
    """
    from foreknow.tasks.tabpfn.cells import CellSettings

    if not isinstance(settings, RowSettings | CellSettings):
        raise CheckpointError("the file's configuration is not that of a network of tables.")
    with seeded_init(seed):
        network: TableNetwork = settings.build()
    return network


def standardise_targets(y: Float[Tensor, "b n"]) -> tuple[Float[Tensor, "b 1"], Float[Tensor, "b 1"]]:
    """Mean and standard deviation of the context's targets, the latter 1 where it is zero."""
    shift = y.mean(dim=1, keepdim=True) if y.shape[1] else y.new_zeros(len(y), 1)
    spread = (y - shift).square().mean(dim=1, keepdim=True).sqrt() if y.shape[1] else torch.ones_like(shift)
    return shift, torch.where(spread > 1e-12 * shift.abs(), spread, 1.0)
