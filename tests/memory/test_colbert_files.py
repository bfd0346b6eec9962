import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from foreknow.cli.main import app
from foreknow.common.errors import ConfigError, InputError
from foreknow.memory import LateInteraction

DOCUMENTS = "d1\tThe ferry leaves the old harbour\nd2\tBread is flour and salt\nd3\tClocks of the tower\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("docs.tsv").write_text(DOCUMENTS)
    Path("more.jsonl").write_text('{"id": "d4", "text": "A train to the coast"}\n')
    Path("q.jsonl").write_text('{"id": "q1", "text": "boat"}\n{"id": "q2", "text": "dough"}\n')
    Path("qrels.tsv").write_text("q1 0 d1 1\nq2 0 d2 1\n")
    return tmp_path


def run(*words: str) -> str:
    found = CliRunner().invoke(app, list(words))
    assert found.exit_code == 0, found.output
    return found.output


def test_from_files_to_ranked_lists(folder: Path) -> None:
    tiny = ["--set", "encoder=tiny", "--set", "dim=16"]
    run("fit", "colbert", "docs.tsv", "-o", "index", *tiny, "--with", "queries=q.jsonl", "--with", "qrels=qrels.tsv")
    shown = json.loads(run("apply", "index", "old harbour", "-o", "found", "--with", "k=2", "--json"))
    first = shown["results"][0]
    assert (first["query"], first["rank"], first["id"]) == ("old harbour", 1, "d1")
    assert "harbour > harbour" in first["matched"]
    assert len(shown["results"]) == 2
    lines = Path("found/run.trec").read_text().splitlines()
    assert lines[0].split()[2:4] == ["d1", "1"]
    assert all(len(line.split()) == 6 for line in lines)
    assert Path("found/matches-1.png").is_file()
    assert Path("found/tokens-1.png").is_file()
    table = run("apply", "index", "q.jsonl", "-o", "found")
    assert "q1" in table and "begins" in table


def test_a_query_may_be_longer_than_a_name_of_a_file(folder: Path) -> None:
    fitted = LateInteraction(encoder="tiny", dim=16, query_len=100).fit(["the old harbour", "bread"])
    query = "the old harbour, " * 20
    assert fitted.apply_files([query, "bread\0"], folder, {}).record["results"][0]["id"] == "0"


def test_queries_of_several_files_are_told_apart_or_refused(folder: Path) -> None:
    Path("a.txt").write_text("boat\ndough\n")
    Path("b.txt").write_text("clocks\n")
    fitted = LateInteraction(encoder="tiny", dim=16).fit(["the old harbour", "bread"])
    with pytest.raises(InputError, match=r"'b\.txt' has the query id '1', which another query has"):
        fitted.apply_files(["a.txt", "b.txt"], folder, {})
    found = fitted.apply_files(["a.txt", "q.jsonl", "a.txt"], folder, {"k": "1"}).record["results"]
    assert [row["query"] for row in found] == ["1", "2", "q1", "q2"]


def test_documents_are_added_and_deleted_from_files(folder: Path) -> None:
    run("fit", "colbert", "docs.tsv", "-o", "index", "--set", "encoder=tiny", "--set", "dim=16")
    shown = json.loads(run("apply", "index", "-o", "x", "--with", "add=more.jsonl", "--with", "delete=d1,d2", "--json"))
    assert (shown["n_added"], shown["n_deleted"], shown["n_documents"]) == (1, 2, 2)
    assert sorted(LateInteraction.load("index").index_.ids()) == ["d3", "d4"]
    told = run("apply", "index", "-o", "x", "--with", "delete=d4").split()
    assert told[-3:] == ["0", "1", "1"]  # added, deleted, left


def test_what_is_missing_or_unknown_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="at least one file"):
        LateInteraction.read_files([], {})
    with pytest.raises(ConfigError, match="unknown option 'query'"):
        LateInteraction.read_files([Path("docs.tsv")], {"query": "q.jsonl"})
    with pytest.raises(ConfigError, match="go together"):
        LateInteraction.read_files([Path("docs.tsv")], {"queries": "q.jsonl"})
    fitted = LateInteraction(encoder="tiny", dim=16).fit(["one", "two"])
    with pytest.raises(ConfigError, match="unknown option 'depth'"):
        fitted.apply_files(["one"], folder, {"depth": "3"})
    with pytest.raises(ConfigError, match="k must be a whole number"):
        fitted.apply_files(["one"], folder, {"k": "0"})
    with pytest.raises(InputError, match="give a query"):
        fitted.apply_files([], folder, {})
