"""Late interaction, and the prior that it is (Khattab and Zaharia 2020, section 3.2).

S(q, d) = sum_i max_j E_q[i] . E_d[j] over unit vectors, or with -||E_q[i] - E_d[j]||^2 in place of the product. On unit
vectors the latter is twice the product minus 2, so both rank alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Generator, Tensor

from foreknow.common.errors import InputError
from foreknow.common.validate import check_bool, check_int
from foreknow.core.pictures import Lines
from foreknow.core.prior import Draw, Prior
from foreknow.core.registry import register
from foreknow.memory.colbert.card import CARD

MASKED = -9999.0
"""In place of the similarity of a pad; half precision holds it."""
SIMILARITIES = ("cosine", "l2")

_QUERY_TOKENS, _DOCUMENT_TOKENS, _DIM = 8, 32, 64


def maxsim(queries: Tensor, documents: Tensor, mask: Tensor, similarity: str = "cosine") -> Tensor:
    """Scores of all pairs, shape (b, n); a document without any token scores -inf.

    Args:
        queries: unit vectors, shape (b, l, d); vectors of zeros stand for no token and add nothing.
        documents: unit vectors, padded to the same number, shape (n, m, d).
        mask: which of them are tokens, shape (n, m).
        similarity: "cosine" or "l2".
    """
    b, n = len(queries), len(documents)
    if documents.shape[1] == 0:
        return queries.new_full((b, n), -math.inf)
    pairs = torch.einsum("bld,nmd->blnm", queries, documents)
    if similarity == "l2":
        pairs = 2 * pairs - 2 * queries.square().sum(2)[:, :, None, None]
    best = pairs.masked_fill(~mask, MASKED).amax(3)
    return best.sum(1).masked_fill(~mask.any(1), -math.inf)


def gather(vectors: Tensor, starts: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Runs of packed vectors (n_tokens, d) as (n, longest, d), and the mask (n, longest) of what belongs to a run."""
    steps = torch.arange(int(lengths.max()) if len(lengths) else 0, device=vectors.device)
    mask = steps < lengths[:, None]
    return vectors[torch.where(mask, starts[:, None] + steps, 0)], mask


def score_all(
    queries: Tensor, vectors: Tensor, lengths: Tensor, similarity: str = "cosine", *, chunk: int = 1 << 25
) -> Tensor:
    """`maxsim` of queries (b, l, d) with packed documents, in pieces of about `chunk` similarities; (b, n)."""
    starts = torch.cumsum(lengths, 0) - lengths
    out = queries.new_full((len(queries), len(lengths)), -math.inf)
    order = torch.argsort(lengths, stable=True)  # of like length, so that little is padded
    order = order[lengths[order] > 0]
    per_token = max(1, queries.shape[0] * queries.shape[1])
    while len(order):
        step = max(1, chunk // (per_token * int(lengths[order[min(len(order), 256) - 1]])))
        part, order = order[:step], order[step:]
        padded, mask = gather(vectors, starts[part], lengths[part])
        out[:, part] = maxsim(queries, padded, mask, similarity)
    return out


@register(CARD)
@dataclass(frozen=True)
class InteractionPrior(Prior):
    """What is known of relevance before any judgement: tokens match tokens, and mean what their context makes of them.

    Args:
        interaction: each query token looks for its best match; False pools a text's vectors to their mean.
        context: vectors come from the last layer of the encoder; False takes those of its table of words.
        pretrained: the encoder has its trained weights; False draws random ones of the same sizes.
        own_tokens: a document is matched by its own tokens; False is the placebo: the documents stand in a random
            circle, and each is matched by the tokens of the one before it.
    """

    interaction: bool = True
    context: bool = True
    pretrained: bool = True
    own_tokens: bool = True

    def __post_init__(self) -> None:
        for name in ("interaction", "context", "pretrained", "own_tokens"):
            check_bool("InteractionPrior", name, getattr(self, name))

    def off(self) -> Prior:
        return replace(self, interaction=False)

    def sample(
        self,
        n: int,
        *,
        generator: Generator,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Draw:
        """Scores of `n` random queries of 8 tokens with documents of 32 that share 0 to 8 of them.

        Token vectors are random directions of 64 dimensions, so what a draw shows is the interaction alone: a sum over
        tokens grows by about the same with every term that is shared, however many others the document has.

        Returns:
            Scores relative to that of a query with itself, shape (n, 9).
        """
        check_int("InteractionPrior", "n", n, low=1)
        shape = (n, _QUERY_TOKENS + _DOCUMENT_TOKENS, _DIM)
        z = torch.randn(shape, generator=generator, device=generator.device, dtype=dtype or torch.float32)
        z = torch.nn.functional.normalize(z.to(device or generator.device), dim=2)
        asked, other = z[:, :_QUERY_TOKENS], z[:, _QUERY_TOKENS:]
        scores = []
        for shared in range(_QUERY_TOKENS + 1):
            document = torch.cat([asked[:, :shared], other[:, shared:]], 1)
            if not self.own_tokens:
                document = document.roll(1, dims=0)
            if self.interaction:
                scores.append((asked @ document.transpose(1, 2)).amax(2).mean(1))
            else:
                scores.append(torch.cosine_similarity(asked.mean(1), document.mean(1)))
        return Draw(torch.stack(scores, 1), {"shared": list(range(_QUERY_TOKENS + 1))})

    def picture(self, n: int, *, generator: Generator) -> Lines:
        """Score against the number of shared terms, with the middle 90% of `n` draws."""
        if n < 1:
            raise InputError(f"InteractionPrior.picture: n must be at least 1, got {n}.")
        lines, bands = {}, {}
        for name, prior in {"late interaction": self, "one vector per text": self.off()}.items():
            assert isinstance(prior, InteractionPrior)
            value = prior.sample(n, generator=generator).value.double().cpu().numpy()
            lines[name] = value.mean(0)
            bands[name] = (np.quantile(value, 0.05, axis=0), np.quantile(value, 0.95, axis=0))
        return Lines(
            np.arange(_QUERY_TOKENS + 1), lines, "terms that document and query share", "score / largest score",
            "What relevance is made of", bands,
        )  # fmt: skip

    @classmethod
    def examples(cls) -> list[Prior]:
        return [cls(), cls(context=False), cls(own_tokens=False)]

    def describe(self) -> str:
        """One line for people."""
        parts = [
            "each query token's best match" if self.interaction else "one pooled vector per text",
            "vectors in context" if self.context else "vectors of words without context",
            "pretrained" if self.pretrained else "random weights",
        ]
        return ", ".join(parts + ([] if self.own_tokens else ["each document matched by the tokens of another"]))
