"""Token vectors as a centroid and a few bits per dimension (ColBERTv2, Santhanam et al. 2022, section 3.3).

A token is the id of its nearest centroid and, per dimension, in which of 2^b equally likely intervals the residual
lies. Intervals end at the quantiles i / 2^b of residuals of tokens that k-means did not see; an interval stands for its
quantile (i + 1/2) / 2^b.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreknow.common.rng import numpy_stream

NBITS = (1, 2, 4)
_ROUNDS = 4
_HELD_OUT, _MAX_HELD_OUT = 0.05, 50_000
_CHUNK = 1 << 25

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Codec:
    """What turns vectors into codes and back.

    Args:
        centroids: unit vectors, shape (K, d).
        cuts: ends of the intervals, shape (2^b - 1,).
        values: what an interval stands for, shape (2^b,).
    """

    centroids: Floats
    cuts: Floats
    values: Floats

    @property
    def nbits(self) -> int:
        """Bits per dimension."""
        return int(math.log2(len(self.values)))

    @classmethod
    def learn(cls, vectors: Tensor, lengths: NDArray[np.int64], nbits: int, seed: int) -> Codec:
        """Centroids and intervals for packed unit vectors (n_tokens, d), from a sample of the passages.

        16 sqrt(120 n) of n passages are looked at; 5% of their tokens are held out for the intervals. The number of
        centroids is 2^floor(log2(16 sqrt(n_tokens))), and at most one for 8 tokens of the sample.
        """
        rng = numpy_stream(seed, "codec")
        n = len(lengths)
        chosen = np.sort(rng.permutation(n)[: min(n, math.ceil(16 * math.sqrt(120 * n)))])
        starts = np.cumsum(lengths) - lengths
        tokens = rng.permutation(np.concatenate([np.arange(starts[i], starts[i] + lengths[i]) for i in chosen]))
        n_held_out = min(int(_HELD_OUT * len(tokens)), _MAX_HELD_OUT)
        sample = vectors[torch.from_numpy(tokens[n_held_out:]).to(vectors.device)]
        held_out = vectors[torch.from_numpy(tokens[:n_held_out] if n_held_out else tokens).to(vectors.device)]
        n_all = max(1, int(lengths.sum()))
        n_centroids = max(1, min(2 ** int(math.log2(16 * math.sqrt(n_all))), len(sample) // 8))
        centroids = _k_means(sample, n_centroids, rng)
        residuals = (held_out - centroids[nearest(centroids, held_out)]).cpu().numpy().ravel()
        grid = np.arange(2**nbits)
        cuts = np.quantile(residuals, grid[1:] / 2**nbits).astype(np.float32)
        values = np.quantile(residuals, (grid + 0.5) / 2**nbits).astype(np.float32)
        return cls(centroids.cpu().numpy(), cuts, values)

    def compress(self, vectors: Tensor) -> tuple[NDArray[np.integer], NDArray[np.uint8]]:
        """Centroid of each vector, (n,), and its packed residual, (n, d b / 8)."""
        centroids = torch.from_numpy(np.array(self.centroids)).to(vectors.device)  # a file's array is read-only
        codes = nearest(centroids, vectors)
        levels = np.searchsorted(self.cuts, (vectors - centroids[codes]).cpu().numpy()).astype(np.uint8)
        kind = np.uint16 if len(self.centroids) <= 1 << 16 else np.uint32
        return codes.cpu().numpy().astype(kind), pack_levels(levels, self.nbits)

    def decompress(self, codes: NDArray[np.integer], packed: NDArray[np.uint8]) -> Floats:
        """Unit vectors (n, d) from codes and packed residuals."""
        vectors = self.centroids[codes] + self.values[unpack_levels(packed, self.nbits)]
        unit: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return unit


def pack_levels(levels: NDArray[np.uint8], nbits: int) -> NDArray[np.uint8]:
    """Levels 0..2^b - 1 of each dimension, (n, d), as bytes (n, d b / 8); the first dimension in the highest bits."""
    per_byte = 8 // nbits
    shifts = np.arange(per_byte - 1, -1, -1, dtype=np.uint8) * nbits
    grouped = levels.reshape(len(levels), levels.shape[1] // per_byte, per_byte)
    packed: NDArray[np.uint8] = np.bitwise_or.reduce(grouped << shifts, axis=2)
    return packed


def unpack_levels(packed: NDArray[np.uint8], nbits: int) -> NDArray[np.uint8]:
    """The inverse of `pack_levels`."""
    per_byte = 8 // nbits
    shifts = np.arange(per_byte - 1, -1, -1, dtype=np.uint8) * nbits
    levels = (packed[:, :, None] >> shifts) & np.uint8(2**nbits - 1)
    return levels.reshape(len(packed), packed.shape[1] * per_byte)


def nearest(centroids: Tensor, vectors: Tensor) -> Tensor:
    """Index of the centroid of the largest cosine for each unit vector, (n,)."""
    step = max(1, _CHUNK // len(centroids))
    return torch.cat([(part @ centroids.T).argmax(1) for part in torch.split(vectors, step)])


def _k_means(sample: Tensor, n_centroids: int, rng: np.random.Generator) -> Tensor:
    """Unit centroids after four rounds; one that no vector belongs to starts again at a random vector."""
    first = torch.from_numpy(rng.permutation(len(sample))[:n_centroids]).to(sample.device)
    centroids = sample[first]
    for _ in range(_ROUNDS):
        owner = nearest(centroids, sample)
        sums = torch.zeros_like(centroids).index_add_(0, owner, sample)
        empty = torch.bincount(owner, minlength=n_centroids) == 0
        again = torch.from_numpy(rng.integers(0, len(sample), n_centroids)).to(sample.device)
        sums[empty] = sample[again[empty]]
        centroids = torch.nn.functional.normalize(sums, dim=1)
    return centroids
