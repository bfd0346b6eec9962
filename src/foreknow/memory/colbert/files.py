"""The command line of late interaction: documents to an index, and queries to ranked lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.progress import ProgressCallback, Reporter
from foreknow.common.validate import check_known
from foreknow.core.pictures import Picture
from foreknow.core.source import Sample
from foreknow.core.system import Applied
from foreknow.data.text import read_documents, read_judgements, read_queries, write_run

if TYPE_CHECKING:
    from foreknow.memory.colbert.system import LateInteraction

FIT_OPTIONS = ("queries", "qrels")
APPLY_OPTIONS = ("k", "add", "delete")
_EXPLAINED = 8
"""Queries whose best document is drawn."""


def read_sample(paths: Sequence[Path], options: Mapping[str, str]) -> Sample:
    """Documents from files or folders; queries and judgements to learn from where the options name them.

    Raises:
        InputError: no file of documents, or one cannot be read.
        ConfigError: an unknown option, or one of the two without the other.
    """
    check_known("foreknow fit colbert", options, FIT_OPTIONS, what="option")
    if not paths:
        raise InputError("foreknow fit colbert: name at least one file or folder of documents.")
    documents = read_documents(paths)
    if not options:
        return Sample(documents)
    if set(options) != set(FIT_OPTIONS):
        raise ConfigError("foreknow fit colbert: --with queries=FILE and --with qrels=FILE go together.")
    queries, judgements = read_queries(options["queries"]), read_judgements(options["qrels"])
    judged = {name: queries[name] for name in judgements if name in queries}
    if not judged:
        raise InputError(f"none of the queries of {options['qrels']!r} is in {options['queries']!r}.")
    return Sample(documents, named={"queries": judged, "relevant": {name: judgements[name] for name in judged}})


def apply(
    system: LateInteraction,
    inputs: Sequence[str],
    out: Path,
    options: Mapping[str, str],
    progress: ProgressCallback | None,
) -> Applied:
    """Change the index as the options say, then search it.

    Args:
        system: as loaded from its folder.
        inputs: queries, or files of queries.
        out: folder for run.trec.
        options: k=N; add=FILE of documents; delete=ID,ID.
        progress: told of finished queries.
    """
    check_known("foreknow apply", options, APPLY_OPTIONS, what="option")
    k = _depth(options.get("k", "10"))
    if not inputs and not {"add", "delete"} & set(options):
        raise InputError("foreknow apply: give a query, a file of queries, or --with add=FILE or delete=ID.")
    queries: dict[str, str] = {}
    for given in inputs:
        for name, text in (read_queries(given) if _is_file(given) else {given: given}).items():
            if queries.setdefault(name, text) != text:
                raise InputError(
                    f"foreknow apply: {given!r:.80} has the query id {name!r:.80}, which another query has already.",
                    hint="Give each query its own id (lines of a .txt file are numbered), or apply file by file.",
                )
    changed = _change(system, options)
    reporter, run, rows = Reporter(progress, max(1, len(queries))), {}, []
    pictures: dict[str, Picture] = {}
    for number, (name, text) in enumerate(queries.items()):
        (ranking,) = system.search([text], k)
        run[name] = list(zip(ranking.ids, ranking.scores.tolist(), strict=True))
        for rank, (document, score) in enumerate(run[name], 1):
            rows.append([name, rank, document, score, _matched(system, text, document), _start(system, document)])
        if len(ranking) and number < _EXPLAINED and _explains(system):
            pictures[f"matches-{number + 1}"] = system.match_picture(text, ranking.ids[0])
            pictures[f"tokens-{number + 1}"] = system.heat_map(text, ranking.ids[0])
        reporter.advance(number + 1, "queries")
    record = {
        **changed,
        "n_documents": system.n_documents,
        "results": [dict(zip(("query", "rank", "id", "score", "matched"), row[:5], strict=True)) for row in rows],
    }
    files = (write_run(out / "run.trec", run, "colbert"),) if run else ()
    columns: tuple[str, ...] = ("query", "rank", "document", "score", "matched (query > document)", "begins")
    if not rows:  # what was done without a query, or that there is nothing to be found
        columns = ("added", "deleted", "documents in the index")
        rows = [[changed["n_added"], changed["n_deleted"], system.n_documents]]
    return Applied(record, (columns, rows), pictures, files)


def _change(system: LateInteraction, options: Mapping[str, str]) -> dict[str, int]:
    """Delete, then add, and write the folder; how many there were of each."""
    names = [name.strip() for name in options.get("delete", "").split(",") if name.strip()]
    new = read_documents([options["add"]]) if "add" in options else []
    if names:
        system.delete(names)
    if new:
        system.add(new)
    if names or new:
        system.save_changes()
    return {"n_added": len(new), "n_deleted": len(names)}


def _is_file(given: str) -> bool:
    """Whether this names a file; a query may be longer than any name of one."""
    try:
        return Path(given).is_file()
    except (OSError, ValueError):
        return False


def _depth(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise ConfigError(f"foreknow apply: k must be a whole number from 1 up, got {text!r}.")
    return int(text)


def _explains(system: LateInteraction) -> bool:
    return bool(system.prior_.interaction and system.prior_.own_tokens)  # type: ignore[attr-defined]


def _matched(system: LateInteraction, query: str, name: str) -> str:
    """The query's words with what they matched, the best first."""
    if not _explains(system):
        return ""
    words = [match for match in system.explain(query, name) if not match.query_token.startswith("[")]
    words.sort(key=lambda match: -match.similarity)
    return ", ".join(f"{match.query_token} > {match.document_token}" for match in words[:6])


def _start(system: LateInteraction, name: str) -> str:
    text = " ".join(system.index_.text(name).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
