"""The system `colbert`: search by late interaction, with an index that can be kept in a folder and changed there."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from foreknow.common.errors import CapabilityError, CheckpointError, ConfigError, ForeknowWarning, InputError
from foreknow.common.progress import ProgressCallback
from foreknow.common.rng import numpy_stream, seed_of, seeded_init
from foreknow.common.validate import check_bool, check_int, check_option, check_real
from foreknow.core.checkpoint import Checkpoint
from foreknow.core.evidence import Evidence
from foreknow.core.pictures import Bars, ImageGrid, Picture
from foreknow.core.prior import Prior
from foreknow.core.records import from_json, to_json
from foreknow.core.registry import register
from foreknow.core.source import Sample
from foreknow.core.system import Applied, Example, State, System, Tags
from foreknow.data.text import Document, read_collection
from foreknow.memory.colbert import files, inputs
from foreknow.memory.colbert.card import CARD
from foreknow.memory.colbert.codec import NBITS
from foreknow.memory.colbert.index import PlaidIndex, Ranking, SearchSettings
from foreknow.memory.colbert.interaction import SIMILARITIES, InteractionPrior, score_all
from foreknow.memory.colbert.network import TextEncoder, Tokens, build_body
from foreknow.memory.colbert.training import ENCODER_LR, HEAD_LR, N_STEPS_MIN, TrainSettings, judge, train_encoder

_FOLDER = "index"
_PRINCIPAL_SAMPLE = 2000
"""Documents whose token vectors give the principal directions."""


@dataclass(frozen=True)
class Match:
    """What a query token found in a document: the token there and their cosine."""

    query_token: str
    document_token: str
    similarity: float


@register(CARD)
class LateInteraction(System):
    """Text search in which every token of a query looks for its best match among the tokens of a document.

    `fit` encodes the documents and builds the index. Where queries with relevant documents are given, it first trains
    the linear layer on them (or the whole encoder). The paper's gains come from much training; with few judged queries
    the prior does the work.

    Args:
        prior: an `InteractionPrior`, "paper", "off" (one pooled vector per text) or "wrong" (each document is matched
            by the tokens of another).
        encoder: "minilm" (the extra "text" brings it), "tiny" (random weights, for trying out), or the folder of a
            BERT with config.json, tokenizer.json and model.safetensors.
        dim: width of a token's vector.
        query_len: tokens that a query is cut to, and padded to with [MASK] where it is augmented.
        augment: whether queries are padded with masks, whose vectors are scored like those of words; None pads where
            the encoder is trained, since an encoder that never learnt to use them adds noise.
        doc_len: tokens that a document is cut to.
        nbits: bits per dimension in the index: 1, 2 or 4.
        similarity: "cosine", or "l2" for the negative squared distance.
        train_encoder: train everything on the judged queries, not the linear layer alone.
        n_epochs: how often each judged query is seen, or oftener until there are `n_steps_min` steps.
        n_steps_min: steps of the training at the least; 1 leaves it at the epochs.
        batch_size: queries of a step.
        n_way: passages of a query in a step, one of them relevant.
        in_batch_negatives: whether the passages of the other queries of a step count as irrelevant too.
        lr: peak learning rate; None takes 0.001 for the linear layer and 0.00001 for everything.
        random_state: of the sample and centroids of the index, of training, and of random weights.
        device: where to encode.

    Example:
        >>> search = LateInteraction(encoder="tiny", random_state=0)
        >>> _ = search.fit(["a tax on sugar", "the last train to the coast", "bread and salt"])
        >>> search.predict(["when does the train leave?"]).tolist()
        ['1']

    References:
        khattab2020colbert, section 3.
    """

    tags = Tags(transforms=True, tolerance=1e-3)
    encoder_: TextEncoder
    index_: PlaidIndex
    fit_inputs: ClassVar[tuple[str, ...]] = ("queries", "relevant", "teacher")
    saves_as: ClassVar[str] = "folder"

    def __init__(
        self,
        prior: Prior | str = "paper",
        *,
        encoder: str = "minilm",
        dim: int = 128,
        query_len: int = 32,
        augment: bool | None = None,
        doc_len: int = 180,
        nbits: int = 2,
        similarity: str = "cosine",
        train_encoder: bool = False,
        n_epochs: int = 5,
        n_steps_min: int = N_STEPS_MIN,
        batch_size: int = 16,
        n_way: int = 4,
        in_batch_negatives: bool = True,
        lr: float | None = None,
        random_state: int | None = None,
        device: str = "auto",
    ) -> None:
        self.prior = prior
        self.encoder = encoder
        self.dim = dim
        self.query_len = query_len
        self.augment = augment
        self.doc_len = doc_len
        self.nbits = nbits
        self.similarity = similarity
        self.train_encoder = train_encoder
        self.n_epochs = n_epochs
        self.n_steps_min = n_steps_min
        self.batch_size = batch_size
        self.n_way = n_way
        self.in_batch_negatives = in_batch_negatives
        self.lr = lr
        self.random_state = random_state
        self.device = device

    # Searching -----------------------------------------------------------------------------------------------

    def search(
        self,
        queries: Sequence[str],
        k: int = 10,
        *,
        n_cells: int | None = None,
        threshold: float | None = None,
        n_candidates: int | None = None,
    ) -> list[Ranking]:
        """The best `k` documents for each query.

        Args:
            queries: texts.
            k: how many documents.
            n_cells, threshold, n_candidates: how much of the index is looked at (`SearchSettings`); by default as
                published for this k.

        Returns:
            Ids and scores for each query. A score is the sum of the similarities of its tokens, so it compares
            documents within a query only.

        Raises:
            NotFittedError: before `fit`.
            InputError: a query is empty.
        """
        vectors = self._encode_queries(self._read_new(queries))
        check_int("LateInteraction.search", "k", k, low=1)
        base = vars(SearchSettings.for_depth(k))
        given = {"n_cells": n_cells, "threshold": threshold, "n_candidates": n_candidates}
        if not self.prior_.interaction:  # type: ignore[attr-defined]
            n_all = max(k, self.index_.n_documents)  # one vector a text: all are looked at
            base = {"n_cells": len(self.index_.codec.centroids), "threshold": -1.0, "n_candidates": 4 * n_all}
        settings = SearchSettings(**{**base, **{name: v for name, v in given.items() if v is not None}})
        return [self._shift(self.index_.search(query, k, settings), query) for query in vectors]

    def rerank(self, queries: Sequence[str], candidates: Sequence[Sequence[str]] | None = None) -> list[Ranking]:
        """The candidates of each query in the order of their scores, by the vectors of the index.

        Args:
            queries: texts.
            candidates: ids for each query, for instance the first 1000 of BM25; None takes all documents, which is the
                search without its short cuts.

        Raises:
            InputError: a query is empty, an id is not in the index, or the two differ in number.
        """
        vectors = self._encode_queries(self._read_new(queries))
        places = self.index_.places()
        lists = [list(places)] * len(vectors) if candidates is None else list(candidates)
        if len(lists) != len(vectors):
            raise InputError(f"LateInteraction.rerank: {len(vectors)} queries, but candidates for {len(lists)}.")
        pairs = zip(vectors, lists, strict=True)
        return [self._shift(self.index_.rerank(query, names, places), query) for query, names in pairs]

    def score(self, queries: Sequence[str], documents: Sequence[str]) -> NDArray[np.float32]:
        """Exact scores of texts, in the index or not, shape (n_queries, n_documents); -inf for one without a word.

        Nothing is compressed here: this is what the index approximates.
        """
        asked = self.encoder_.encode_queries(self._query_tokens(self._read_new(queries)))
        tokens = [self.encoder_.document_tokens(text) for text in inputs.read_texts("score: documents", documents)]
        vectors, lengths = self.encoder_.encode(tokens)
        found = score_all(asked, vectors, lengths, self.similarity)
        return found.cpu().numpy()

    def explain(self, query: str, name: str) -> list[Match]:
        """Which token of a document each token of the query matches best, with the cosine.

        Masks come last: they stand for no word of the query, but what they match counts too.

        Raises:
            CapabilityError: the prior pools a text to one vector, or matches it by another's tokens.
            InputError: there is no such document, or it has no word.
        """
        table, asked, found = self._table(query, name)
        best = table.argmax(1)
        return [Match(asked[i], found[j], float(table[i, j])) for i, j in enumerate(best)]

    def heat_map(self, query: str, name: str) -> ImageGrid:
        """Cosines of all tokens of a query (rows) with all tokens of a document (columns), as a picture."""
        table, _, _ = self._table(query, name)
        image = np.clip(table, 0, 1).repeat(12, 0).repeat(12, 1)
        return ImageGrid([[image]], ["document, first token left"], ["query"], f"Token matches in {name:.40}")

    # Changing the index --------------------------------------------------------------------------------------

    def add(self, documents: Sequence[Any]) -> None:
        """Put further documents into the index; `save` to the same folder writes the new ones only.

        Raises:
            InputError: an id is in the index already.
        """
        self._check_fitted()
        new = inputs.read_documents("LateInteraction.add", documents)
        places = self.index_.places()
        twice = [document.id for document in new if document.id in places]
        if twice:
            raise InputError(
                f"LateInteraction.add: the document {twice[0]!r:.80} is in the index already ({len(twice)} in all).",
                hint="Delete it first, or give the new ones other ids.",
            )
        tokens = self._document_tokens(new)
        vectors, lengths = self.encoder_.encode(tokens)
        ids, texts = [document.id for document in new], [document.text for document in new]
        self.index_ = self.index_.with_added(vectors, lengths.cpu().numpy(), ids, texts)

    def delete(self, names: Sequence[str]) -> None:
        """Take documents out of the index, by id; their bytes stay until `compact`."""
        self._check_fitted()
        self.index_ = self.index_.without(list(names))

    def compact(self) -> None:
        """Join all segments and drop what was deleted."""
        self._check_fitted()
        self.index_ = self.index_.compacted()

    @property
    def n_documents(self) -> int:
        """Documents in the index."""
        self._check_fitted()
        return int(self.index_.n_documents)

    # Hooks ---------------------------------------------------------------------------------------------------

    def _check_settings(self) -> None:
        owner = "LateInteraction"
        if not isinstance(self.encoder, str) or not self.encoder:
            raise ConfigError(f"{owner}: encoder must be 'minilm', 'tiny' or a folder, got {self.encoder!r:.80}.")
        check_int(owner, "dim", self.dim, low=1)
        check_int(owner, "query_len", self.query_len, low=4)
        check_int(owner, "doc_len", self.doc_len, low=4)
        if check_int(owner, "nbits", self.nbits) not in NBITS:
            raise ConfigError(f"{owner}: nbits must be one of {NBITS}, got {self.nbits!r}.")
        if self.dim * self.nbits % 8:
            raise ConfigError(f"{owner}: dim * nbits must be a multiple of 8, got {self.dim} * {self.nbits}.")
        check_option(owner, "similarity", self.similarity, SIMILARITIES)
        check_int(owner, "n_epochs", self.n_epochs, low=1)
        check_int(owner, "n_steps_min", self.n_steps_min, low=1)
        check_int(owner, "batch_size", self.batch_size, low=1)
        check_int(owner, "n_way", self.n_way, low=2)
        check_bool(owner, "train_encoder", self.train_encoder)
        if self.augment is not None:
            check_bool(owner, "augment", self.augment)
        check_bool(owner, "in_batch_negatives", self.in_batch_negatives)
        if self.lr is not None:
            check_real(owner, "lr", self.lr, low=0, open_low=True)
        seed_of(self.random_state)

    def _paper_prior(self) -> Prior:
        return InteractionPrior()

    def _wrong_prior(self) -> Prior:
        return InteractionPrior(own_tokens=False)

    def _read_X(self, X: object, *, fitting: bool) -> Any:
        if fitting:
            return inputs.read_documents("LateInteraction", X)
        return inputs.read_texts("LateInteraction: queries", X)

    def _row_shape(self, rows: Any) -> None:
        return None

    def _fit(
        self, X: Any, y: NDArray[Any] | None, queries: Any = None, relevant: Any = None, teacher: Any = None
    ) -> None:
        documents: list[Document] = sorted(X, key=lambda document: document.id)  # so that their order does not matter
        judged = inputs.read_judged(queries, relevant, teacher)
        self.encoder_ = self._new_encoder()
        tokens = self._document_tokens(documents)
        tell = partial(self._told, note="encoding documents")
        order = numpy_stream(self.seed_, "principal").permutation(len(tokens))[:_PRINCIPAL_SAMPLE]
        states = self.encoder_.states([tokens[i] for i in np.sort(order)], tell)
        self.encoder_.set_principal(states, self._stream("turn"))
        if judged:
            self._train(judged, documents, tokens)
        vectors, lengths = self.encoder_.encode(tokens, tell)
        self._tell(len(tokens), len(tokens), "building the index")
        self.index_ = PlaidIndex.build(
            vectors,
            lengths.cpu().numpy(),
            [document.id for document in documents],
            [document.text for document in documents],
            nbits=self.nbits,
            seed=seed_of(self.seed_, "index"),
        )
        self._place: tuple[Path, int] | None = None

    def _train(self, judged: list[inputs.JudgedTexts], documents: list[Document], tokens: list[Tokens]) -> None:
        settings = TrainSettings(
            self.n_epochs,
            self.batch_size,
            self.n_way,
            self.in_batch_negatives,
            self.lr or (ENCODER_LR if self.train_encoder else HEAD_LR),
            self.train_encoder,
            self.similarity,
            self.n_steps_min,
        )
        ids, texts = [document.id for document in documents], [document.text for document in documents]
        learnt_from = judge(judged, ids, texts, [len(text.kept) for text in tokens])
        if self.train_encoder:
            self.encoder_.unfreeze()
        train_encoder(
            self.encoder_, learnt_from, tokens, settings, seed=seed_of(self.seed_, "training"),
            progress=lambda p: self._tell(p.done, p.total, f"training, {p.note}"),
        )  # fmt: skip
        self.encoder_.requires_grad_(False).eval()

    def _transform(self, X: Any) -> NDArray[Any]:
        """Scores of all documents of the index, sorted by id, shape (n_queries, n_documents)."""
        names = sorted(self.index_.ids())
        places = self.index_.places()
        rows = []
        for query in self._encode_queries(X):
            ranking = self._shift(self.index_.rerank(query, names, places), query)
            rows.append(ranking.scores[np.argsort(np.array(ranking.ids, dtype=object))])
        return np.stack(rows).astype(np.float64)

    def _predict(self, X: Any) -> NDArray[Any]:
        rankings = self.search(X, 1)
        if not all(map(len, rankings)):
            raise InputError("LateInteraction: there is no document left in the index.", hint="Add some.")
        return np.array([ranking.ids[0] for ranking in rankings])

    def losses(self, model: Any, test: Sample) -> Mapping[str, float]:
        """1 - nDCG@10, 1 - RR@10 and 1 - R@100 of the test's queries."""
        return inputs.search_losses(model, test)

    # Saving --------------------------------------------------------------------------------------------------

    def _state(self) -> State:
        return State(contains_rows=True)

    def _restore(self, state: State) -> None:
        """Everything lies in the folder."""

    def _save_folder(self, folder: Path) -> None:
        from foreknow.memory.colbert.store import write_index

        place = folder.resolve() / _FOLDER
        place.mkdir(exist_ok=True)
        system = {
            "params": to_json(self.get_params(deep=False)), "prior": to_json(self.prior_), "seed": self.seed_,
        }  # fmt: skip
        encoder = Checkpoint("TextEncoder", {"origin": self.encoder_.body.origin}, self.encoder_.kept_state())
        known = self._place
        seen = known[1] if known is not None and known[0] == place else None
        self._place = place, write_index(place, self.index_, encoder.save, system, seen=seen)

    def _load_folder(self, folder: Path) -> None:
        from foreknow.memory.colbert.store import read_index

        place = folder.resolve() / _FOLDER
        stored = read_index(place)
        # A save that was killed may have left newer settings beside the older index: the index knows its own.
        params, prior = from_json(stored.system["params"]), from_json(stored.system["prior"])
        if not isinstance(params, dict) or not isinstance(prior, InteractionPrior):
            raise CheckpointError(f"the index in {str(place)!r} holds no settings of LateInteraction.")
        self.set_params(**params)
        self._check_settings()
        self.prior_, self.seed_ = prior, int(stored.system["seed"])
        weights = Checkpoint.load(stored.encoder, kind="TextEncoder")
        self.encoder_ = self._new_encoder(own=not weights.config["origin"])
        if self.encoder_.body.origin != weights.config["origin"]:
            raise CheckpointError(
                f"the encoder {self.encoder!r} has other weights than the one the index was built with.",
                hint="Fit again, or bring back the encoder.",
            )
        if weights.config["origin"]:
            weights.load_into(self.encoder_.head, "head.")
        else:
            weights.load_into(self.encoder_)
        if stored.index.codec.centroids.shape[1] != self.dim:
            raise CheckpointError(f"the index in {str(place)!r} was not built with dim={self.dim}.")
        self.index_, self._place = stored.index, (place, stored.version)

    # Files ---------------------------------------------------------------------------------------------------

    @classmethod
    def read_files(cls, paths: Sequence[Path], options: Mapping[str, str]) -> Sample:
        """Documents from files, with the options queries=FILE and qrels=FILE to learn from."""
        return files.read_sample(paths, options)

    def apply_files(
        self, inputs: Sequence[str], out: Path, options: Mapping[str, str], progress: ProgressCallback | None = None
    ) -> Applied:
        """Search for queries or files of queries; the options are k=N, add=FILE and delete=ID,ID."""
        return files.apply(self, inputs, out, options, progress)

    def save_changes(self) -> None:
        """Write what was added or deleted to the folder that the index came from.

        Raises:
            CapabilityError: it came from none.
        """
        if self._place is None:
            raise CapabilityError("this index lies in no folder yet.", hint="Use save(folder).")
        self.save(self._place[0].parent)

    def pictures(self) -> Mapping[str, Picture]:
        """How the first document's first words find it again."""
        if not self.n_documents:
            return {}
        name = sorted(self.index_.ids())[0]
        query = " ".join(self.index_.text(name).split()[:8])
        return {"matches": self.match_picture(query, name)} if query else {}

    def match_picture(self, query: str, name: str) -> Bars:
        """What each token of a query adds to a document's score."""
        found = [match for match in self.explain(query, name) if match.query_token != "[MASK]"]
        labels = [f"{i + 1}. {match.query_token} > {match.document_token}" for i, match in enumerate(found)]
        return Bars(labels, {"best match": [match.similarity for match in found]}, "cosine", f"{query:.60} | {name}")

    # Proof and price -----------------------------------------------------------------------------------------

    @classmethod
    def examples(cls) -> list[Example]:
        documents = [
            {"id": f"d{number}", "text": text}
            for number, text in enumerate(
                (
                    "The ferry to the island leaves from the old harbour every morning.",
                    "Bread is made of flour, water, salt and time.",
                    "A fast train connects the two cities in an hour.",
                    "The museum of clocks opens late on Thursdays.",
                    "Salt keeps meat through the winter.",
                    "Clocks in the harbour tower are seldom right.",
                )
            )
        ]
        new = ["when does the ferry leave", "what is bread made of", "clocks of the tower", "train between cities"]
        tiny = {"encoder": "tiny", "dim": 16, "query_len": 12, "random_state": 0}
        asked = {"a": "meat in winter", "b": "fast connection", "c": "flour and water", "e": "old clocks"}
        relevant = {"a": {"d4": 1}, "b": {"d2": 1}, "c": {"d1": 2}, "e": {"d5": 1, "d3": 1}}
        learning = {**tiny, "n_epochs": 3, "n_steps_min": 1, "batch_size": 2, "n_way": 2}
        return [
            Example("six documents", tiny, documents, None, new),
            Example("judged queries", learning, documents, None, new, {"queries": asked, "relevant": relevant}),
            Example("four bits, l2", {**tiny, "nbits": 4, "similarity": "l2", "augment": True}, documents, None, new),
        ]

    @classmethod
    def prove(cls, *, preset: str = "small", seeds: int = 3, progress: ProgressCallback | None = None) -> Evidence:
        """Search of documentation and newspaper texts: arms, index, and the price in bytes and milliseconds."""
        from foreknow.memory.colbert.proof import prove

        return prove(preset=preset, seeds=seeds, progress=progress)

    @classmethod
    def priced_as(cls, task: str) -> System:
        """Four bits a dimension: one pooled vector bears the rounding of two less well than many tokens do."""
        return cls(nbits=4)

    @classmethod
    def priced_on(cls, task: str) -> Mapping[str, Any]:
        """Documentation of numpy, scipy and scikit-learn; a size is a number of judged queries."""
        from foreknow.memory.colbert.plain import documentation_queries

        return {"documentation": documentation_queries(400)}

    @classmethod
    def priced_from(cls, path: Path) -> Any:
        """A folder with a collection: BEIR, TREC, Cranfield or CISI; a size is a number of judged queries."""
        from foreknow.memory.colbert.plain import JudgedQueries

        return JudgedQueries(read_collection(path))

    def plain_baselines(self) -> Mapping[str, Callable[[int], Any]]:
        """BM25, TF-IDF, and one pooled vector of the built-in encoder as it was trained to be used."""
        from foreknow.memory.colbert import plain

        return {"BM25": plain.BM25Search, "TF-IDF": plain.TfidfSearch, "pooled vector": plain.PooledSearch}

    # Parts ---------------------------------------------------------------------------------------------------

    def _new_encoder(self, *, own: bool = False) -> TextEncoder:
        """An encoder for these settings, on the device; with `own` its transformer is not shared."""
        prior = self.prior_
        if not isinstance(prior, InteractionPrior):
            raise ConfigError(f"LateInteraction: the prior must be an InteractionPrior, got {type(prior).__name__}.")
        seed = seed_of(self.seed_, "weights")
        body = build_body(self.encoder, pretrained=prior.pretrained, seed=seed, device=self.device_)
        with seeded_init(seed):
            augment = self.train_encoder if self.augment is None else self.augment
            encoder = TextEncoder(body, self.dim, prior, self.query_len, self.doc_len, augment).to(self.device_)
        if own:
            encoder.unfreeze()
            encoder.body.requires_grad_(False)
        return encoder.eval()

    def _document_tokens(self, documents: Sequence[Document]) -> list[Tokens]:
        """Documents as tokens; by the placebo each gets those of another."""
        tokens = [self.encoder_.document_tokens(document.text) for document in documents]
        n_cut = sum(text.n_cut > 0 for text in tokens)
        if n_cut:
            warnings.warn(
                f"LateInteraction: {n_cut} of {len(tokens)} documents are longer than doc_len={self.doc_len} tokens; "
                f"the rest of them ({sum(text.n_cut for text in tokens)} tokens) is not indexed.",
                ForeknowWarning,
                stacklevel=5,
            )
        if self.prior_.own_tokens:  # type: ignore[attr-defined]
            return tokens
        circle = numpy_stream(self.seed_, "placebo").permutation(len(tokens))
        taken = np.empty_like(circle)
        taken[circle] = np.roll(circle, 1)
        return [tokens[i] for i in taken]

    def _query_tokens(self, queries: Sequence[str]) -> list[Tokens]:
        """Queries as tokens, none of them without a word."""
        tokens = [self.encoder_.query_tokens(text) for text in queries]
        for text, marked in zip(queries, tokens, strict=True):
            if marked.n_attended == 3:
                raise InputError(f"LateInteraction: the query {text!r:.80} has no word.")
        n_cut = sum(marked.n_cut > 0 for marked in tokens)
        if n_cut:
            warnings.warn(
                f"LateInteraction: {n_cut} of {len(tokens)} queries are longer than query_len={self.query_len} tokens; "
                "the rest of them is not looked for.",
                ForeknowWarning,
                stacklevel=5,
            )
        return tokens

    def _encode_queries(self, queries: Sequence[str]) -> list[NDArray[np.float32]]:
        """Unit vectors of each query, (l, dim)."""
        vectors, lengths = self.encoder_.encode(self._query_tokens(queries))
        return [part.cpu().numpy() for part in torch.split(vectors, lengths.tolist())]

    def _shift(self, ranking: Ranking, query: NDArray[np.float32]) -> Ranking:
        """Sums of cosines as the similarity has them."""
        if self.similarity == "cosine":
            return ranking
        return Ranking(ranking.ids, 2 * ranking.scores - 2 * len(query))

    def _table(self, query: str, name: str) -> tuple[NDArray[np.float32], list[str], list[str]]:
        """Cosines of all pairs of tokens, and the tokens."""
        prior = self.prior_
        assert isinstance(prior, InteractionPrior)
        if not (prior.interaction and prior.own_tokens):
            raise CapabilityError("LateInteraction: tokens match tokens only with the prior on.")
        asked = self.encoder_.query_tokens(inputs.read_texts("LateInteraction: query", [query])[0])
        found = self.encoder_.document_tokens(self.index_.text(name))
        if not found.kept:
            raise InputError(f"LateInteraction: the document {name!r:.80} has no word.")
        vectors, lengths = self.encoder_.encode([asked, found])
        n = int(lengths[0])
        table = (vectors[:n] @ vectors[n:].T).cpu().numpy()
        return table, [asked.words[i] for i in asked.kept], [found.words[i] for i in found.kept]

    def _told(self, done: int, total: int, note: str) -> None:
        self._tell(done, total, note)
