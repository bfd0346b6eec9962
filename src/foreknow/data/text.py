"""Collections of texts with queries and judged relevance: one record, and readers for the files they come in.

Formats: .jsonl, .tsv, .csv, folders of .txt; TREC documents, topics and judgements (Vaswani as well); the BEIR layout
(corpus.jsonl, queries.jsonl, qrels/*.tsv); Cranfield and CISI with their own tags.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

from foreknow.common.errors import InputError

Judgements = dict[str, dict[str, float]]
_ID_NAMES = ("id", "_id", "docid", "doc_id", "docno", "qid", "query_id", "query-id")
_TEXT_NAMES = ("text", "contents", "body", "query", "question")


@dataclass(frozen=True)
class Document:
    """A text with the name it is found by."""

    id: str
    text: str


@dataclass(frozen=True)
class TextCollection:
    """Documents, queries, and which document answers which query.

    Args:
        name: for reports.
        documents: each id once; a text may be empty.
        queries: id -> text.
        judgements: query id -> document id -> grade, larger is better, 0 is not relevant; a document with a negative
            grade is left out where the query is learnt from, and by whoever measures as if it were not there.
    """

    name: str
    documents: tuple[Document, ...]
    queries: Mapping[str, str]
    judgements: Mapping[str, Mapping[str, float]]


# Documents and queries ---------------------------------------------------------------------------------------------


def read_documents(paths: Sequence[str | Path]) -> list[Document]:
    """The documents of files or folders.

    A record of .jsonl and .csv has an id ("id", "_id", "docid", ...), a text ("text", "contents", ...) and maybe a
    "title", which is put before the text. A .tsv has the columns id and text, with or without a header. A .trec file
    holds <DOC> elements. A .txt file is one document with its path as id; so is each .txt file of a folder. Blanks in
    ids become "_" here and in queries, as judgements and runs of TREC are cut at blanks.

    Raises:
        InputError: a file cannot be read, or an id comes twice.
    """
    found = [Document(trec_id(name), text) for path in paths for name, text in _texts(Path(path), "documents")]
    seen: set[str] = set()
    for document in found:
        if document.id in seen:
            raise InputError(f"the document id {document.id!r:.80} comes twice.", hint="Give each document its own id.")
        seen.add(document.id)
    if not found:
        raise InputError(f"no document in {', '.join(map(str, paths)) or 'no file'}.")
    return found


def read_queries(path: str | Path) -> dict[str, str]:
    """Queries by id: .jsonl, .tsv, .csv as of documents, TREC topics (.trec), or .txt with one query a line.

    Raises:
        InputError: the file cannot be read, holds no query, or an id twice.
    """
    found: dict[str, str] = {}
    for given, text in _texts(Path(path), "queries"):
        name = trec_id(given)
        if name in found:
            raise InputError(f"{str(path)!r}: the query id {name!r:.80} comes twice.")
        found[name] = text
    if not found:
        raise InputError(f"{str(path)!r} holds no query.")
    return found


def read_judgements(path: str | Path) -> Judgements:
    """Judged relevance: TREC lines "query 0 document grade", or two or three columns with or without BEIR's header.

    Raises:
        InputError: a line has another number of columns or a grade that is no number.
    """
    found: Judgements = {}
    for number, line in enumerate(_lines(Path(path)), 1):
        words = line.split()
        if not words or (number == 1 and words[-1].lower() in ("score", "grade", "relevance", "doc", "document")):
            continue
        if not 2 <= len(words) <= 4:
            raise InputError(f"{str(path)!r}, line {number}: expected 2 to 4 columns, got {len(words)}: {line!r:.80}.")
        query, document = words[0], words[2] if len(words) == 4 else words[1]
        found.setdefault(query, {})[document] = _grade(path, number, words[-1]) if len(words) > 2 else 1.0
    if not found:
        raise InputError(f"{str(path)!r} holds no judgement.")
    return found


def trec_id(name: str) -> str:
    """An id without blanks, at which lines of TREC are cut."""
    return "_".join(name.split())


def write_run(path: str | Path, run: Mapping[str, Iterable[tuple[str, float]]], tag: str = "foreknow") -> Path:
    """Write ranked lists as a TREC run: "query Q0 document rank score tag", blanks in ids as "_".

    Raises:
        InputError: two ids of queries, or of a query's documents, are the same without blanks.
    """
    from foreknow.common.files import write_text

    lines = []
    for query, ranking in zip(_trec_ids(run), run.values(), strict=True):
        found = list(ranking)
        names = _trec_ids(name for name, _ in found)
        lines += [
            f"{query} Q0 {name} {rank} {score:.6f} {tag}"
            for rank, (name, (_, score)) in enumerate(zip(names, found, strict=True), 1)
        ]
    write_text(path, "\n".join(lines) + "\n")
    return Path(path)


def _trec_ids(names: Iterable[str]) -> list[str]:
    """Ids as TREC has them, all different."""
    found: dict[str, str] = {}
    for name in names:
        if (other := found.setdefault(trec_id(name), name)) != name:
            raise InputError(
                f"a run cannot tell {other!r:.80} from {name!r:.80}: both are written as {trec_id(name)!r:.80}.",
                hint="Give one of them another id.",
            )
    return list(found)


def _texts(path: Path, what: str) -> Iterator[tuple[str, str]]:
    """Ids and texts of one file or folder."""
    if path.is_dir():
        for file in sorted(path.rglob("*.txt")):
            yield file.relative_to(path).as_posix(), _read(file)
        return
    kind = path.suffix.lower()
    readers: dict[str, Callable[[Path], Iterable[tuple[str, str]]]] = {
        ".jsonl": _from_jsonl,
        ".tsv": _from_table,
        ".csv": _from_table,
        ".trec": _from_trec if what == "documents" else _from_topics,
        ".txt": _from_lines if what == "queries" else lambda file: [(file.name, _read(file))],
    }
    if kind not in readers:
        raise InputError(
            f"{str(path)!r}: {what} are read from {', '.join(readers)} files, not from {kind or 'these'!r}."
        )
    yield from readers[kind](path)


def _from_jsonl(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise InputError(f"{str(path)!r}, line {number}: no JSON ({error}).") from error
        if not isinstance(record, dict):
            raise InputError(f"{str(path)!r}, line {number}: expected an object, got {type(record).__name__}.")
        yield id_and_text(f"{str(path)!r}, line {number}", record)


def _from_table(path: Path) -> Iterator[tuple[str, str]]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    lines = io.StringIO(_read(path))
    try:
        if delimiter == "\t":
            rows = list(csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE))
        else:
            rows = list(csv.reader(lines))
    except csv.Error as error:
        raise InputError(f"{str(path)!r}: {error}.") from error
    rows = [row for row in rows if row]
    names = [cell.strip().lower() for cell in rows[0]] if rows else []
    if set(names) & set(_ID_NAMES) and set(names) & set(_TEXT_NAMES):
        rows = rows[1:]
    elif delimiter == "\t":
        names = ["id", "text", "title"]
    for number, row in enumerate(rows, 1):
        yield id_and_text(f"{str(path)!r}, row {number}", dict(zip(names, row)))


def _from_lines(path: Path) -> Iterator[tuple[str, str]]:
    lines = [line.strip() for line in _lines(path)]
    return ((str(number), line) for number, line in enumerate((line for line in lines if line), 1))


def _from_trec(path: Path) -> Iterator[tuple[str, str]]:
    for element in re.findall(r"<DOC>(.*?)</DOC>", _read(path), flags=re.S | re.I):
        name = re.search(r"<DOCNO>\s*(.*?)\s*</DOCNO>", element, flags=re.S | re.I)
        if name is None:
            raise InputError(f"{str(path)!r}: a document has no <DOCNO>: {element.strip()!r:.80}.")
        text = element[: name.start()] + " " + element[name.end() :]
        yield name[1], _plain(text)


def _from_topics(path: Path) -> Iterator[tuple[str, str]]:
    for element in re.findall(r"<top>(.*?)</top>", _read(path), flags=re.S | re.I):
        number = re.search(r"<num>\s*(?:Number:)?\s*([^\s<]+)", element, flags=re.I)
        title = re.search(r"<title>(.*?)(?:</title>|<desc>|$)", element, flags=re.S | re.I)
        if number is None or title is None:
            raise InputError(f"{str(path)!r}: a topic needs <num> and <title>: {element.strip()!r:.80}.")
        yield number[1], _plain(title[1])


def id_and_text(where: str, record: Mapping[str, Any]) -> tuple[str, str]:
    """Id and text of a record, its title before the text.

    Raises:
        InputError: it has no id or no text; `where` begins the message.
    """
    name = next((record[key] for key in _ID_NAMES if record.get(key) is not None), None)
    text = next((record[key] for key in _TEXT_NAMES if isinstance(record.get(key), str)), None)
    if not isinstance(name, str | int) or isinstance(name, bool) or not str(name).strip() or text is None:
        raise InputError(
            f"{where}: expected an id and a text, got the fields {', '.join(map(str, record)) or 'none'}.",
            hint=f"An id is called {', '.join(_ID_NAMES)}; a text {', '.join(_TEXT_NAMES)}.",
        )
    title = record.get("title")
    return str(name).strip(), f"{title}\n{text}" if isinstance(title, str) and title.strip() else text


# Whole collections -------------------------------------------------------------------------------------------------


def read_collection(folder: str | Path) -> TextCollection:
    """The collection in a folder: the BEIR layout, TREC files, Cranfield or CISI, whichever is there.

    Raises:
        InputError: none of them is there, or a file cannot be read.
    """
    path = Path(folder)
    here = {file.name.lower(): file for file in sorted(path.rglob("*")) if file.is_file()}
    if "corpus.jsonl" in here and "queries.jsonl" in here:
        return read_beir(path)
    if "cran.all.1400" in here:
        names = ("cran.all.1400", "cran.qry", next((name for name in here if name.startswith("cranqrel")), ""))
        reader = read_cranfield
    elif "cisi.all" in here:
        names, reader = ("cisi.all", "cisi.qry", "cisi.rel"), read_cisi
    else:
        names = ("doc-text.trec", "query-text.trec", "qrels")
        reader = read_trec
    missing = [name or "cranqrel.correct" for name in names if name not in here]
    if missing:
        raise InputError(
            f"{str(path)!r} holds no collection that is known here: {', '.join(missing)} is missing.",
            hint="Known are BEIR (corpus.jsonl), TREC (doc-text.trec, query-text.trec, qrels), Cranfield "
            "(cran.all.1400) and CISI (CISI.ALL).",
        )
    return reader(*(here[name] for name in names))


def read_beir(folder: str | Path, split: str = "test") -> TextCollection:
    """A folder in the BEIR layout: corpus.jsonl, queries.jsonl, qrels/<split>.tsv."""
    path = Path(folder)
    queries, judgements = read_queries(path / "queries.jsonl"), read_judgements(path / "qrels" / f"{split}.tsv")
    judged = {name: queries[name] for name in judgements if name in queries}
    return TextCollection(path.name, tuple(read_documents([path / "corpus.jsonl"])), judged, judgements)


def read_trec(documents: str | Path, queries: str | Path, judgements: str | Path) -> TextCollection:
    """Files of TREC, as Vaswani's: <DOC> elements, <top> elements, and lines "query 0 document grade"."""
    texts = tuple(Document(trec_id(name), text) for name, text in _from_trec(Path(documents)))
    return TextCollection(
        Path(documents).parent.name, texts, dict(_from_topics(Path(queries))), read_judgements(judgements)
    )


def read_cranfield(documents: str | Path, queries: str | Path, judgements: str | Path) -> TextCollection:
    """The Cranfield collection.

    The ids in the file of queries (001, 002, 004, ...) are not those of the judgements, which number the queries by
    position: the queries are joined by order and called 1, 2, 3, ... Grade 1 is the best, 4 the least, and anything
    else (-1, 5) none; they are turned round to 4, 3, 2, 1, 0. Some documents are empty.
    """
    texts = tuple(
        Document(name, _plain(f"{parts.get('T', '')}\n{parts.get('W', '')}")) for name, parts in _tagged(documents)
    )
    asked = {str(position): _plain(parts.get("W", "")) for position, (_, parts) in enumerate(_tagged(queries), 1)}
    grades = {
        query: {document: 5.0 - grade if 1 <= grade <= 4 else 0.0 for document, grade in found.items()}
        for query, found in read_judgements(judgements).items()
    }
    unknown = sorted(set(grades) - set(asked))
    if unknown:
        raise InputError(f"{str(judgements)!r} judges query {unknown[0]}, but there are {len(asked)} queries.")
    return TextCollection("cranfield", texts, asked, grades)


def read_cisi(documents: str | Path, queries: str | Path, judgements: str | Path) -> TextCollection:
    """The CISI collection: title and abstract; lines "query document 0 0.0" name what is relevant."""
    texts = tuple(
        Document(name, _plain(f"{parts.get('T', '')}\n{parts.get('W', '')}")) for name, parts in _tagged(documents)
    )
    asked = {name: _plain(f"{parts.get('T', '')}\n{parts.get('W', '')}") for name, parts in _tagged(queries)}
    grades: Judgements = {}
    for line in _lines(Path(judgements)):
        if len(words := line.split()) >= 2:
            grades.setdefault(words[0], {})[words[1]] = 1.0
    return TextCollection("cisi", texts, asked, grades)


def _tagged(path: str | Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Records of Cranfield's format: a line ".I id", then fields that begin with a line such as ".T" or ".W"."""
    parts: dict[str, str] = {}
    name, tag = None, ""
    for line in _lines(Path(path)):
        if match := re.fullmatch(r"\.I\s+(\S+)\s*", line):
            if name is not None:
                yield name, parts
            name, tag, parts = match[1], "", {}
        elif match := re.fullmatch(r"\.([A-Z])\s*", line):
            tag = match[1]
        elif tag:
            parts[tag] = f"{parts.get(tag, '')}{line}\n"
    if name is None:
        raise InputError(f"{str(path)!r} has no line '.I id'.", hint="Is it a file of Cranfield or CISI?")
    yield name, parts


def _plain(text: str) -> str:
    """Text without markup, on one line."""
    return " ".join(unescape(re.sub(r"</?[A-Za-z][^<>]{0,80}>", " ", text)).split())


def _grade(path: str | Path, number: int, word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise InputError(f"{str(path)!r}, line {number}: the grade {word!r:.40} is no number.") from None


def _lines(path: Path) -> list[str]:
    """Lines cut at newlines only: a text may hold form feeds and Unicode's separators."""
    return _read(path).split("\n")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror}.", hint="Check the path.") from error
