"""Attention over sets: context rows see each other, query rows see the context and nothing else.

There is no positional encoding, so the order of the context does not matter, and no query ever sees another
query *or itself*: its prediction is the same whichever queries are asked beside it. (The first PFN code let a
query attend to its own key as well; the later code drops it, and so do we: the query's own token reaches
the output through the residual path.) Because of this the context can be encoded once and kept
(`ContextCache`), and reading it costs m * n instead of (n + m)^2.

Letters in the shape comments: b batch, n context rows, m query rows, e width, h heads, c = e / h.

References: Müller et al. 2022 (PFN), Lee et al. 2019 (induced and pooling attention).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from foreknow.common.errors import CheckpointError, ConfigError
from foreknow.common.validate import check_int, check_option, check_real

KeysValues = tuple[Float[Tensor, "sets heads keys size"], Float[Tensor, "sets heads keys size"]]
"""Keys and values of one layer, split into heads of `size` numbers each."""


class MultiheadAttention(nn.Module):
    """Scaled dot-product attention from one set of tokens to another, at first adding nothing.

    The output projection starts at zero, so a residual branch around this module starts as the identity.

    Args:
        width: size of a token.
        n_heads: number of heads; must divide `width`.
        dropout: probability of dropping an attention weight in training.
        log_n_scaling: how queries grow with the number n of keys, which keeps attention sharp on sets larger
            than those of training: `"none"`; `"log"`, times `1 + s * log n` with one learned s per head;
            `"mlp"`, times `1 + f(log n)` with a small learned network f. Both start as `"none"`.
    """

    def __init__(self, width: int, n_heads: int, *, dropout: float = 0.0, log_n_scaling: str = "none") -> None:
        super().__init__()
        owner = "MultiheadAttention"
        check_int(owner, "width", width, low=1)
        check_int(owner, "n_heads", n_heads, low=1)
        check_option(owner, "log_n_scaling", log_n_scaling, ("none", "log", "mlp"))
        if width % n_heads:
            raise ConfigError(f"{owner}: n_heads must divide width, got n_heads={n_heads} and width={width}.")
        self.n_heads = n_heads
        self.dropout = check_real(owner, "dropout", dropout, low=0.0, high=0.99)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = _zero_linear(width, width)
        self.log_n_scale: nn.Module | None = None
        if log_n_scaling == "log":
            self.log_n_scale = _zero_linear(1, n_heads, bias=False)
        elif log_n_scaling == "mlp":
            self.log_n_scale = nn.Sequential(nn.Linear(1, 16), nn.GELU(), _zero_linear(16, n_heads))

    def keys_values(self, context: Float[Tensor, "b n e"]) -> KeysValues:
        """Keys and values of the tokens to attend to, ready for any number of `forward` calls."""
        return self._split(self.key(context)), self._split(self.value(context))

    def forward(
        self, tokens: Float[Tensor, "b m e"], keys_values: KeysValues, mask: Bool[Tensor, "b n"] | None = None
    ) -> Float[Tensor, "b m e"]:
        """What each token gathers from the keys; zeros (plus the output bias) where there are no keys.

        `mask` is true where a key may be seen. A row without any such key gathers from all of them alike.
        """
        keys, values = keys_values
        queries = self._split(self.query(tokens))  # b h m c
        n = keys.shape[-2]
        if self.log_n_scale is not None:
            log_n = torch.full((1,), math.log(max(n, 1)), dtype=queries.dtype, device=queries.device)
            queries = queries * (1 + self.log_n_scale(log_n).to(queries.dtype)[:, None, None])
        if n == 0:  # a sum over no keys is zero; the products keep every parameter in the gradient's graph
            gathered = (queries @ keys.mT) @ values
        else:
            dropout = self.dropout if self.training else 0.0
            seen = None if mask is None else (mask | ~mask.any(-1, keepdim=True))[:, None, None]  # b 1 1 n
            gathered = F.scaled_dot_product_attention(queries, keys, values, attn_mask=seen, dropout_p=dropout)
        out: Tensor = self.out(gathered.transpose(1, 2).flatten(2))  # b m e
        return out

    def _split(self, tokens: Tensor) -> Tensor:
        b, n, e = tokens.shape
        return tokens.reshape(b, n, self.n_heads, e // self.n_heads).transpose(1, 2)  # b h n c


class ContextBlock(nn.Module):
    """One transformer block whose weights serve context rows and query rows alike.

    `block(context, block.keys_values(context))` is self-attention over the context;
    `block(query, block.keys_values(context))` lets the queries read the context. The rows passed first never
    see each other unless they are also the keys.

    Args:
        width: size of a token.
        n_heads: number of heads.
        hidden: width of the two-layer GELU network; None takes `2 * width`.
        norm: `"pre"` normalises the input of each branch (the block starts as the identity), `"rms"` likewise but
            by root mean square only, `"post"` the sum after each branch (as the first PFN code did).
        dropout: probability of dropping an attention weight or a unit of a branch's output in training.
        log_n_scaling: see `MultiheadAttention`.
    """

    def __init__(
        self,
        width: int,
        n_heads: int,
        hidden: int | None = None,
        *,
        norm: str = "pre",
        dropout: float = 0.0,
        log_n_scaling: str = "none",
    ) -> None:
        super().__init__()
        self.norm = check_option("ContextBlock", "norm", norm, ("pre", "rms", "post"))
        hidden = 2 * width if hidden is None else check_int("ContextBlock", "hidden", hidden, low=1)
        self.attention = MultiheadAttention(width, n_heads, dropout=dropout, log_n_scaling=log_n_scaling)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), _zero_linear(hidden, width))
        self.attention_norm = _norm(norm, width)
        self.mlp_norm = _norm(norm, width)
        self.dropout = nn.Dropout(dropout)

    def keys_values(self, context: Float[Tensor, "b n e"]) -> KeysValues:
        """Keys and values of the context rows as this block's input."""
        return self.attention.keys_values(context if self.norm == "post" else self.attention_norm(context))

    def forward(self, tokens: Float[Tensor, "b m e"], keys_values: KeysValues) -> Float[Tensor, "b m e"]:
        """The tokens after attending to `keys_values` and passing through the two-layer network."""
        if self.norm != "post":
            tokens = tokens + self.dropout(self.attention(self.attention_norm(tokens), keys_values))
            tokens = tokens + self.dropout(self.mlp(self.mlp_norm(tokens)))
        else:
            tokens = self.attention_norm(tokens + self.dropout(self.attention(tokens, keys_values)))
            tokens = self.mlp_norm(tokens + self.dropout(self.mlp(tokens)))
        return tokens


@dataclass(frozen=True)
class ContextCache:
    """A context as a `SetTransformer` keeps it: the keys and values of every layer.

    Args:
        keys: one tensor per layer, shape (b, h, n, c).
        values: the same for the values.
    """

    keys: tuple[Float[Tensor, "b h n c"], ...]
    values: tuple[Float[Tensor, "b h n c"], ...]

    @property
    def n_context(self) -> int:
        return self.keys[0].shape[-2]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> ContextCache:
        """The same cache on another device or in another precision."""
        return ContextCache(
            tuple(key.to(device=device, dtype=dtype) for key in self.keys),
            tuple(value.to(device=device, dtype=dtype) for value in self.values),
        )

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, for storage: `keys.0`, `values.0`, `keys.1`, ..."""
        layers = enumerate(zip(self.keys, self.values))
        return {name: tensor for i, (k, v) in layers for name, tensor in ((f"keys.{i}", k), (f"values.{i}", v))}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> ContextCache:
        """The inverse of `tensors`.

        Raises:
            CheckpointError: if names are missing, unknown, or the shapes of keys and values differ.
        """
        depth = len(tensors) // 2
        expected = {f"{part}.{i}" for i in range(depth) for part in ("keys", "values")}
        if depth == 0 or set(tensors) != expected:
            raise CheckpointError(f"a context cache holds keys.i and values.i per layer, got {sorted(tensors)[:6]}.")
        shapes = {tuple(tensor.shape) for tensor in tensors.values()}
        if len(shapes) != 1 or len(next(iter(shapes))) != 4:
            raise CheckpointError(f"the tensors of a context cache must share one shape (b, h, n, c), got {shapes}.")
        return cls(
            tuple(tensors[f"keys.{i}"] for i in range(depth)), tuple(tensors[f"values.{i}"] for i in range(depth))
        )


class SetTransformer(nn.Module):
    """A stack of context blocks: encodes a context, then answers any number of independent queries.

    Works for an empty context (n = 0): queries then gather nothing and the output is the prior's own answer.

    Args:
        width: size of a token.
        depth: number of blocks.
        n_heads: number of heads.
        hidden: width of the blocks' two-layer networks; None takes `2 * width`.
        norm: `"pre"`, `"rms"` (both with one more norm on the output) or `"post"`; see `ContextBlock`.
        dropout: see `ContextBlock`.
        log_n_scaling: see `MultiheadAttention`.
        chunk_size: most queries handled at once, which bounds memory; None takes all. It changes no result.

    References: Müller et al. 2022.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        n_heads: int,
        hidden: int | None = None,
        *,
        norm: str = "pre",
        dropout: float = 0.0,
        log_n_scaling: str = "none",
        chunk_size: int | None = None,
    ) -> None:
        super().__init__()
        check_int("SetTransformer", "depth", depth, low=1)
        self.chunk_size = None if chunk_size is None else check_int("SetTransformer", "chunk_size", chunk_size, low=1)
        self.blocks = nn.ModuleList(
            ContextBlock(width, n_heads, hidden, norm=norm, dropout=dropout, log_n_scaling=log_n_scaling)
            for _ in range(depth)
        )
        self.out_norm = nn.Identity() if norm == "post" else _norm(norm, width)

    def forward(
        self, context_tokens: Float[Tensor, "b n e"], query_tokens: Float[Tensor, "b m e"]
    ) -> Float[Tensor, "b m e"]:
        """What each query token becomes after reading the context."""
        return self.read(self.encode_context(context_tokens), query_tokens)

    def encode_context(self, context_tokens: Float[Tensor, "b n e"]) -> ContextCache:
        """The context's keys and values in every layer; nothing of it depends on the queries."""
        keys, values = [], []
        for i, block in enumerate(self.blocks):
            assert isinstance(block, ContextBlock)
            pair = block.keys_values(context_tokens)
            keys.append(pair[0])
            values.append(pair[1])
            if i + 1 < len(self.blocks):  # what the last block would make of the context is never read
                context_tokens = block(context_tokens, pair)
        return ContextCache(tuple(keys), tuple(values))

    def read(self, cache: ContextCache, query_tokens: Float[Tensor, "b m e"]) -> Float[Tensor, "b m e"]:
        """The same result as `forward`, from a context encoded before.

        Raises:
            ConfigError: if the cache was made by a network of another depth.
        """
        if len(cache.keys) != len(self.blocks):
            raise ConfigError(
                f"SetTransformer: the cache has {len(cache.keys)} layers, the network has {len(self.blocks)}.",
                hint="Encode the context with this network.",
            )
        if self.chunk_size is None or query_tokens.shape[1] <= self.chunk_size:
            return self._read(cache, query_tokens)
        return torch.cat(
            [self._read(cache, chunk) for chunk in torch.split(query_tokens, self.chunk_size, dim=1)], dim=1
        )

    def _read(self, cache: ContextCache, tokens: Tensor) -> Tensor:
        for block, keys, values in zip(self.blocks, cache.keys, cache.values):
            tokens = block(tokens, (keys, values))
        out: Tensor = self.out_norm(tokens)
        return out


class InducedAttention(nn.Module):
    """Attention between rows through a few learned points: cost n * k instead of n^2, for large sets.

    The points gather from the context, the tokens gather from the points. Starts as the identity on the tokens.

    Args:
        width: size of a token.
        n_heads: number of heads.
        n_points: number k of learned points.
        hidden, norm: see `ContextBlock`.

    References: Lee et al. 2019, induced set attention block (pre-normalised, zero-initialised branches).
    """

    def __init__(
        self, width: int, n_heads: int, n_points: int = 16, hidden: int | None = None, *, norm: str = "pre"
    ) -> None:
        super().__init__()
        self.points = _learned_tokens("InducedAttention", "n_points", n_points, width)
        self.gather = ContextBlock(width, n_heads, hidden, norm=norm)
        self.spread = ContextBlock(width, n_heads, hidden, norm=norm)

    def summarise(self, context: Float[Tensor, "b n e"]) -> KeysValues:
        """The points after reading the context, as keys and values of tokens: all that tokens need of it."""
        points = self.points.expand(len(context), -1, -1)  # b k e
        points = self.gather(points, self.gather.keys_values(context))
        pair: KeysValues = self.spread.keys_values(points)
        return pair

    def forward(
        self, tokens: Float[Tensor, "b m e"], context: Float[Tensor, "b n e"] | None = None
    ) -> Float[Tensor, "b m e"]:
        """The tokens after reading the points; the points see only `context`, by default the tokens themselves."""
        out: Tensor = self.spread(tokens, self.summarise(tokens if context is None else context))
        return out


class PoolingAttention(nn.Module):
    """A set of any size as a fixed number of tokens: learned seeds gather from the rows.

    Args:
        width: size of a token.
        n_heads: number of heads.
        n_seeds: number k of output tokens.
        hidden: see `ContextBlock`.

    References: Lee et al. 2019, pooling by multi-head attention.
    """

    def __init__(self, width: int, n_heads: int, n_seeds: int = 1, hidden: int | None = None) -> None:
        super().__init__()
        self.seeds = _learned_tokens("PoolingAttention", "n_seeds", n_seeds, width)
        self.gather = ContextBlock(width, n_heads, hidden)

    def forward(self, tokens: Float[Tensor, "b n e"]) -> Float[Tensor, "b k e"]:
        """The seeds after reading the rows, shape (b, k, e); order of the rows does not matter."""
        out: Tensor = self.gather(self.seeds.expand(len(tokens), -1, -1), self.gather.keys_values(tokens))
        return out


class RMSNorm(nn.RMSNorm):
    """Division by the root mean square, never in less than the precision of its weight: under autocast rows may come
    in bfloat16, whose squares sum badly, and torch's own layer warns of the mixture.
    """

    def forward(self, x: Float[Tensor, "*rows e"]) -> Float[Tensor, "*rows e"]:
        """Rows of root mean square one times the learnt weight."""
        return super().forward(x.to(torch.promote_types(x.dtype, self.weight.dtype)))


def _norm(kind: str, width: int) -> nn.Module:
    return RMSNorm(width) if kind == "rms" else nn.LayerNorm(width)


def _zero_linear(n_in: int, n_out: int, *, bias: bool = True) -> nn.Linear:
    layer = nn.Linear(n_in, n_out, bias=bias)
    nn.init.zeros_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def _learned_tokens(owner: str, name: str, count: int, width: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(1, check_int(owner, name, count, low=1), width))
