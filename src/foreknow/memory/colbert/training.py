"""Training from judged queries: hard negatives of BM25, softmax cross-entropy, distillation, in-batch negatives.

Version 1 of the paper: a relevant and an irrelevant passage, cross-entropy over their two scores. ColBERTv2: n
passages with the scores of a teacher, KL divergence between both softmaxes; and the passages of the other queries of a
batch as further irrelevant ones, whose cross-entropy is added.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from foreknow.common.errors import ForeknowWarning, InputError
from foreknow.common.progress import ProgressCallback
from foreknow.common.rng import numpy_stream
from foreknow.memory.colbert.interaction import gather, maxsim
from foreknow.memory.colbert.lexical import BM25
from foreknow.memory.colbert.network import TextEncoder, Tokens, as_queries
from foreknow.train.config import TrainConfig
from foreknow.train.loop import train

N_HARD = 50
"""How far down the list of BM25 negatives come from."""
HEAD_LR, ENCODER_LR = 1e-3, 1e-5
N_STEPS_MIN = 50
"""Steps of a training at the least: five epochs of a few dozen queries are too few for the linear layer."""


@dataclass(frozen=True)
class Judged:
    """A query with passages by position.

    Args:
        query: its text.
        relevant: passages that answer it.
        irrelevant: passages that look as if they did.
        teacher: passage -> score of another model, of two passages or more; empty without one.
        left_out: passages that count neither as relevant nor as irrelevant.
    """

    query: str
    relevant: tuple[int, ...]
    irrelevant: tuple[int, ...]
    teacher: Mapping[int, float]
    left_out: tuple[int, ...] = ()


@dataclass(frozen=True)
class TrainSettings:
    """How training goes.

    Args:
        n_epochs: how often each query is seen.
        batch_size: queries of a step.
        n_way: passages of a query in a step, the relevant one included.
        in_batch: whether the other queries' passages count as irrelevant too.
        lr: peak learning rate.
        whole: train the transformer, not the linear layer alone.
        similarity: "cosine" or "l2".
        n_steps_min: steps at the least, whatever the epochs have.
    """

    n_epochs: int
    batch_size: int
    n_way: int
    in_batch: bool
    lr: float
    whole: bool
    similarity: str
    n_steps_min: int = N_STEPS_MIN


def judge(
    queries: Sequence[tuple[str, Mapping[str, float], Mapping[str, float]]],
    ids: Sequence[str],
    texts: Sequence[str],
    lengths: Sequence[int],
) -> list[Judged]:
    """Queries with the passages that can be learnt from.

    A document with a negative grade is no passage of its query. A teacher is followed from two scored documents up.

    Args:
        queries: text, judged documents with their grades, and a teacher's scores (maybe none).
        ids, texts: of the documents.
        lengths: their numbers of kept tokens; one without any is not learnt from.

    Raises:
        InputError: no query has a relevant document here, or all documents are relevant.
    """
    place = {name: i for i, name in enumerate(ids) if lengths[i]}
    bm25 = BM25(texts)
    found = []
    for text, grades, scores in queries:
        relevant = tuple(place[name] for name, grade in grades.items() if grade > 0 and name in place)
        left_out = tuple(place[name] for name, grade in grades.items() if grade < 0 and name in place)
        kept_out = {*relevant, *left_out}
        teacher = {place[name]: float(score) for name, score in scores.items() if name in place}
        teacher = {i: score for i, score in teacher.items() if i not in left_out}
        if len(teacher) < 2:
            teacher = {}
        if not relevant and not teacher:
            continue
        hard = [int(i) for i in bm25.top(text, N_HARD + len(kept_out)) if lengths[i] and int(i) not in kept_out]
        if not hard:
            hard = [i for i in place.values() if i not in kept_out][:N_HARD]
        if hard or teacher:
            found.append(Judged(text, relevant, tuple(hard[:N_HARD]), teacher, left_out))
    if not found:
        raise InputError(
            "LateInteraction: none of the queries has both a relevant and an irrelevant document here.",
            hint="Check that the ids in relevant are those of the documents.",
        )
    if len(found) < len(queries):
        warnings.warn(
            f"{len(queries) - len(found)} of {len(queries)} queries have no relevant document here; not learnt from.",
            ForeknowWarning,
            stacklevel=5,
        )
    return found


def ranking_loss(scores: Tensor, n_way: int, teacher: Tensor | None, in_batch: bool, known: Tensor) -> Tensor:
    """The loss of a batch.

    Args:
        scores: of all queries with all passages, (b, b n); passages i n to (i + 1) n are query i's, the relevant one
            first.
        n_way: n.
        teacher: another model's scores of the own passages, (b, n), with rows of NaN for queries without any; or None.
            Queries with scores learn by distillation, the others by cross-entropy.
        in_batch: whether the target is also to stand out from the other queries' passages.
        known: passages that are not irrelevant to a query and not its target, (b, b n); they never count as irrelevant.
    """
    b = len(scores)
    rows = torch.arange(b, device=scores.device)
    own = scores.view(b, b, n_way)[rows, rows]
    logs = own.log_softmax(1)  # (b, n)
    losses = -logs[:, 0]
    if teacher is not None:
        aims = teacher.nan_to_num().log_softmax(1)
        divergence = nn.functional.kl_div(logs, aims, reduction="none", log_target=True).sum(1)
        losses = torch.where(teacher.isnan().any(1), losses, divergence)
    loss = losses.mean()
    if in_batch:
        hidden = known.clone()
        hidden.view(b, b, n_way)[rows, rows, 1:] = True  # the query's own negatives have had their turn
        loss = loss + nn.functional.cross_entropy(scores.masked_fill(hidden, -math.inf), rows * n_way)
    return loss


class Batches:
    """Batch k of the training: queries in an order of their own in each epoch, passages drawn anew.

    The batches of an epoch are of the same size, give or take one, and hold each query once.
    """

    def __init__(self, judged: Sequence[Judged], settings: TrainSettings, seed: int) -> None:
        self.judged, self.settings, self.seed = judged, settings, seed
        self.per_epoch = math.ceil(len(judged) / settings.batch_size)

    def __call__(self, k: int) -> dict[str, Any]:
        epoch, number = divmod(k, self.per_epoch)
        order = numpy_stream(self.seed, "epoch", str(epoch)).permutation(len(self.judged))
        chosen = [self.judged[i] for i in np.array_split(order, self.per_epoch)[number]]
        rng = numpy_stream(self.seed, "batch", str(k))
        n_way = self.settings.n_way
        passages, scores = zip(*(_passages(item, n_way, rng) for item in chosen), strict=True)
        flat = np.array([i for row in passages for i in row])
        known = np.stack(
            [
                np.isin(flat, (row[0], *item.relevant, *item.left_out))
                for item, row in zip(chosen, passages, strict=True)
            ]
        )
        known[np.arange(len(chosen)), np.arange(len(chosen)) * n_way] = False
        teacher = torch.tensor(scores) if any(item.teacher for item in chosen) else None
        return {"queries": [item.query for item in chosen], "passages": flat, "known": torch.from_numpy(known),
                "teacher": teacher}  # fmt: skip


def _passages(item: Judged, n_way: int, rng: np.random.Generator) -> tuple[list[int], list[float]]:
    """`n_way` passages, the target first, and the teacher's scores of them (NaN without a teacher)."""
    if item.teacher:
        names = sorted(item.teacher, key=lambda i: -item.teacher[i])
        best = next((i for i in names if i in item.relevant), names[0])
        others = [i for i in names if i != best]
        chosen = [best, *rng.choice(others, n_way - 1, replace=len(others) < n_way - 1).tolist()]
        return chosen, [item.teacher[i] for i in chosen]
    others = list(item.irrelevant)
    chosen = [int(rng.choice(item.relevant)), *rng.choice(others, n_way - 1, replace=len(others) < n_way - 1).tolist()]
    return chosen, [math.nan] * n_way


def train_encoder(
    encoder: TextEncoder,
    judged: Sequence[Judged],
    documents: Sequence[Tokens],
    settings: TrainSettings,
    *,
    seed: int,
    progress: ProgressCallback | None = None,
    n_steps: int | None = None,
) -> int:
    """Train the linear layer, or everything, in place; the number of steps.

    Args:
        encoder: of texts; with `settings.whole` it must be unfrozen.
        judged: queries with passages.
        documents: all of them, as tokens.
        settings: of the training.
        seed: of its batches.
        progress: told how far it is.
        n_steps: steps, in place of those the epochs have.
    """
    batches = Batches(judged, settings, seed)
    n_steps = n_steps or max(settings.n_steps_min, settings.n_epochs * batches.per_epoch)
    queries = {item.query: encoder.query_tokens(item.query) for item in judged}
    stored: dict[Tokens, NDArray[np.float16]] = {}
    if not settings.whole:
        needed = {i for item in judged for i in (*item.relevant, *item.irrelevant, *item.teacher)}
        texts = list(dict.fromkeys([*queries.values(), *(documents[i] for i in sorted(needed))]))
        stored = dict(zip(texts, encoder.states(texts), strict=True))

    def vectors(module: TextEncoder, texts: Sequence[Tokens]) -> tuple[Tensor, Tensor]:
        if settings.whole:
            return module.encode_with_gradient(texts)
        states = [torch.from_numpy(stored[text]) for text in texts]
        device = module.head.weight.device
        lengths = torch.tensor([len(part) for part in states], device=device)
        return module.project(torch.cat(states).to(device, torch.float32)), lengths

    def loss(module: nn.Module, batch: dict[str, Any]) -> Tensor:
        assert isinstance(module, TextEncoder)
        asked = as_queries(*vectors(module, [queries[text] for text in batch["queries"]]))
        found, lengths = vectors(module, [documents[i] for i in batch["passages"]])
        padded, mask = gather(found, torch.cumsum(lengths, 0) - lengths, lengths)
        scores = maxsim(asked, padded, mask, settings.similarity)
        return ranking_loss(scores, settings.n_way, batch["teacher"], settings.in_batch, batch["known"])

    config = TrainConfig(
        n_steps=n_steps, lr=settings.lr, schedule="linear", warmup_fraction=0.1, precision="32", seed=seed % 2**31
    )
    train(encoder, loss, batches, config, device=encoder.head.weight.device, progress=progress)
    return n_steps
