"""The network behind `TabularClassifier`: closed-form heads, read by a small set transformer fitted to a prior.

One token per (row, class) holds the scores of all heads, the label (context rows) and what is known of the table.
Layers alternate attention over context rows, within a class, and mixing over classes, within a row. So the
network is equivariant to rows and to classes, works for any number of classes, and its cost does not grow with
the number of columns once the heads are done. At the start it is the plain average of the heads.

Cost: heads O(n^3 + (n + m) n p), network O(c (n + m) n) for n context rows, m query rows, p features, c classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from foreknow.common.errors import CheckpointError
from foreknow.common.rng import seeded_init
from foreknow.common.validate import check_int
from foreknow.core.checkpoint import Checkpoint
from foreknow.core.records import from_json, record, to_json
from foreknow.nn.attention import KeysValues, MultiheadAttention
from foreknow.tasks.tabular.heads import HeadSettings


@record
@dataclass(frozen=True)
class StackSettings:
    """Sizes of the network and its heads.

    Args:
        heads: the closed-form predictors.
        width: size of a token.
        depth: number of layers.
        n_heads: attention heads.
        initial_temperature: what the averaged scores are multiplied by at the start.
    """

    heads: HeadSettings = field(default_factory=HeadSettings)
    width: int = 64
    depth: int = 4
    n_heads: int = 4
    initial_temperature: float = 6.0

    def __post_init__(self) -> None:
        for name in ("width", "depth", "n_heads"):
            check_int("StackSettings", name, getattr(self, name), low=1)


class StackLayer(nn.Module):
    """Attention over context rows within a class, then a two-layer network that also sees the other classes."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = MultiheadAttention(width, n_heads, log_n_scaling="log")
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(3 * width, 2 * width)
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
        others = torch.cat([own.mean(dim=1, keepdim=True), own.amax(dim=1, keepdim=True)], dim=-1)
        mixed = torch.cat([own, others.expand(-1, own.shape[1], -1, -1)], dim=-1)
        changed: Tensor = tokens + self.mlp_out(F.gelu(self.mlp_in(mixed)))
        return changed


class StackNetwork(nn.Module):
    """Head scores of context and queries, and the context's labels -> class logits of the queries."""

    def __init__(self, settings: StackSettings) -> None:
        super().__init__()
        self.settings = settings
        width, n_scores = settings.width, settings.heads.n_heads
        # scores, their spread over heads, label, "is context", log frequency, log n, log number of classes
        self.encoder = nn.Linear(n_scores + 7, width)
        self.layers = nn.ModuleList(StackLayer(width, settings.n_heads) for _ in range(settings.depth))
        self.out_norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, n_scores + 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.temperature = nn.Parameter(torch.tensor(float(settings.initial_temperature)))

    def tokens(
        self,
        scores: Float[Tensor, "b m c h"],
        labels: Float[Tensor, "b m c"] | None,
        frequency: Float[Tensor, "b c"],
        n_context: int,
    ) -> Float[Tensor, "b c m e"]:
        """Tokens of rows; `labels` one-hot for context rows, None for queries."""
        b, m, c, _ = scores.shape
        known = scores.new_zeros(b, m, c) if labels is None else labels
        constants = torch.stack(
            [
                scores.new_full((b, c), 0.0 if labels is None else 1.0),
                frequency.log() / 2,
                scores.new_full((b, c), math.log(max(n_context, 1)) / 3 - 1.5),
                scores.new_full((b, c), math.log(c) - 1.0),
            ],
            dim=-1,
        )[:, None].expand(b, m, c, 4)
        features = torch.cat(
            [
                scores * 2,
                scores.mean(dim=-1, keepdim=True) * 2,
                scores.std(dim=-1, keepdim=True) * 4,
                known[..., None],
                constants,
            ],
            dim=-1,
        )
        encoded: Tensor = self.encoder(features)
        return encoded.transpose(1, 2)

    def encode(
        self, scores: Float[Tensor, "b n c h"], labels: Float[Tensor, "b n c"], frequency: Float[Tensor, "b c"]
    ) -> list[KeysValues]:
        """Keys and values of the context in every layer."""
        tokens = self.tokens(scores, labels, frequency, scores.shape[1])
        cache: list[KeysValues] = []
        for layer in self.layers:
            assert isinstance(layer, StackLayer)
            cache.append(layer.keys_values(tokens))
            tokens = layer(tokens, cache[-1])
        return cache

    def read(
        self, cache: list[KeysValues], scores: Float[Tensor, "b m c h"], frequency: Float[Tensor, "b c"]
    ) -> Float[Tensor, "b m c"]:
        """Logits of query rows."""
        tokens = self.tokens(scores, None, frequency, cache[0][0].shape[2])
        for layer, pair in zip(self.layers, cache):
            tokens = layer(tokens, pair)
        written = self.head(self.out_norm(tokens)).transpose(1, 2)  # b m c (h + 1)
        weight = self.temperature / scores.shape[-1] + written[..., :-1]
        logits: Tensor = (weight * scores).sum(dim=-1) + written[..., -1] + 0.5 * frequency.log()[:, None]
        return logits

    def forward(
        self,
        context_scores: Float[Tensor, "b n c h"],
        query_scores: Float[Tensor, "b m c h"],
        labels: Float[Tensor, "b n c"],
    ) -> Float[Tensor, "b m c"]:
        """`read(encode(context), query)`."""
        frequency = class_frequency(labels)
        return self.read(self.encode(context_scores, labels, frequency), query_scores, frequency)

    @torch.no_grad()
    def silence(self) -> None:
        """Forget what training taught: the heads are averaged, as before the first step."""
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.temperature.fill_(self.settings.initial_temperature)

    def to_checkpoint(self, prior: object, training: dict[str, Any]) -> Checkpoint:
        """The network, the prior it was fitted to and how, ready to be saved."""
        config = {"settings": to_json(self.settings), "prior": to_json(prior)}
        tensors = {name: tensor.detach() for name, tensor in self.state_dict().items()}
        return Checkpoint(kind="StackNetwork", config=config, tensors=tensors, training=training)

    @classmethod
    def from_checkpoint(cls, path: str | Path) -> StackNetwork:
        """The network of a file.

        Raises:
            CheckpointError: if the file is not one of these.
        """
        checkpoint = Checkpoint.load(path, kind="StackNetwork")
        try:
            settings = from_json(checkpoint.config["settings"])
        except KeyError as error:
            raise CheckpointError(f"the file's configuration lacks {error}.") from error
        if not isinstance(settings, StackSettings):
            raise CheckpointError("the file's configuration is not that of a StackNetwork.")
        with seeded_init(0):
            network = cls(settings)
        checkpoint.load_into(network)
        return network.eval()


def class_frequency(labels: Float[Tensor, "b n c"]) -> Float[Tensor, "b c"]:
    """Share of every class among the context rows, with half a row added to each."""
    n, c = labels.shape[1:]
    return (labels.sum(dim=1) + 0.5) / (n + 0.5 * c)
