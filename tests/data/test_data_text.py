import json
from pathlib import Path

import pytest

from foreknow.common.errors import InputError
from foreknow.data.text import (
    Document,
    read_collection,
    read_documents,
    read_judgements,
    read_queries,
    write_run,
)
from foreknow.data.text_sets import documentation, lee_news

CRANFIELD = """.I 1
.T
experimental investigation of a wing .
.A
brenckman,m.
.B
j. ae. scs. 25, 1958, 324.
.W
experimental investigation of a wing .
  an experimental study .
.I 2
.T
.A
.B
.W
.I 3
.T
shear flow
.W
simple shear flow past a plate
"""
CRANFIELD_QUERIES = """.I 001
.W
what similarity laws must be obeyed
.I 004
.W
what problems of heat conduction
"""
CISI = """.I 1
.T
18 Editions
.A
Comaromi, J.P.
.W
The present study is a history
.X
1\t5\t1
.I 2
.T
Use Made
.W
This report is an analysis
.X
92\t1\t1
"""


def write(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        path = folder / name.replace("__", ".").replace("_", "-")
        path.write_text(text, encoding="utf-8")


def test_documents_of_every_format(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        json.dumps({"_id": "a1", "title": "Salt", "text": "of the sea"}) + "\n\n" + '{"id": 2, "contents": "two"}\n'
    )
    (tmp_path / "b.tsv").write_text('b1\tsome "text\tits title\nb2\tother\n')
    (tmp_path / "c.csv").write_text('docid,text\nc1,"one, two"\n')
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "d.txt").write_text("first\nsecond")
    (tmp_path / "e.trec").write_text("<DOC>\n<DOCNO>e1</DOCNO>\n<TEXT>compact memories &amp; more</TEXT>\n</DOC>\n")
    names = ("a.jsonl", "b.tsv", "c.csv", "texts", "e.trec")
    assert read_documents([tmp_path / name for name in names]) == [
        Document("a1", "Salt\nof the sea"),
        Document("2", "two"),
        Document("b1", 'its title\nsome "text'),
        Document("b2", "other"),
        Document("c1", "one, two"),
        Document("d.txt", "first\nsecond"),
        Document("e1", "compact memories & more"),
    ]


def test_queries_of_every_format(tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("first query\n\nsecond\n")
    (tmp_path / "q.tsv").write_text("id\ttext\n7\tseven\n")
    (tmp_path / "q.trec").write_text(
        "<top>\n<num> Number: 301\n<title> Crime\n<desc> x\n</top>\n<top><num>2</num><title>\nLASERS\n</title></top>"
    )
    assert read_queries(tmp_path / "q.txt") == {"1": "first query", "2": "second"}
    assert read_queries(tmp_path / "q.tsv") == {"7": "seven"}
    assert read_queries(tmp_path / "q.trec") == {"301": "Crime", "2": "LASERS"}


def test_judgements_of_every_format(tmp_path: Path) -> None:
    (tmp_path / "trec").write_text("1 0 d1 1\n1 0 d2 0\n2 0 d1 2\n")
    (tmp_path / "beir.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\n")
    (tmp_path / "pairs").write_text("q1 d1\nq1 d3\n")
    assert read_judgements(tmp_path / "trec") == {"1": {"d1": 1, "d2": 0}, "2": {"d1": 2}}
    assert read_judgements(tmp_path / "beir.tsv") == {"q1": {"d1": 1}}
    assert read_judgements(tmp_path / "pairs") == {"q1": {"d1": 1, "d3": 1}}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.jsonl", "{no json", "line 1: no JSON"),
        ("a.jsonl", "[1]", "expected an object"),
        ("a.jsonl", '{"text": "x"}', "expected an id and a text"),
        ("a.tsv", "only-an-id\n", "expected an id and a text"),
        ("a.jsonl", '{"id":"1","text":"x"}\n{"id":"1","text":"y"}', "comes twice"),
        ("a.pdf", "x", "are read from"),
        ("a.trec", "<DOC>no name</DOC>", "no <DOCNO>"),
        ("a.jsonl", "", "no document"),
    ],
)
def test_bad_documents_are_refused(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=words):
        read_documents([tmp_path / name])


def test_bad_judgements_are_refused(tmp_path: Path) -> None:
    for text, words in (("1 0 d x\n", "no number"), ("1\n", "2 to 4 columns"), ("", "no judgement")):
        (tmp_path / "q").write_text(text)
        with pytest.raises(InputError, match=words):
            read_judgements(tmp_path / "q")
    with pytest.raises(InputError, match="cannot read"):
        read_judgements(tmp_path / "missing")


@pytest.mark.parametrize("columns", [3, 4])
def test_cranfield_joins_queries_by_position_and_turns_grades_round(tmp_path: Path, columns: int) -> None:
    (tmp_path / "cran.all.1400").write_text(CRANFIELD)
    (tmp_path / "cran.qry").write_text(CRANFIELD_QUERIES)
    rows = [("1", "1", "1"), ("1", "3", "4"), ("2", "3", "-1"), ("2", "1", "2"), ("2", "2", "5")]
    lines = [" ".join(row if columns == 3 else (row[0], "0", *row[1:])) for row in rows]
    (tmp_path / "cranqrel.correct").write_text("\n".join(lines))
    found = read_collection(tmp_path)
    assert found.queries == {"1": "what similarity laws must be obeyed", "2": "what problems of heat conduction"}
    assert found.judgements == {"1": {"1": 4, "3": 1}, "2": {"3": 0, "1": 3, "2": 0}}
    assert [document.text for document in found.documents][1:] == ["", "shear flow simple shear flow past a plate"]


def test_cranfield_refuses_judgements_of_queries_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "cran.all.1400").write_text(CRANFIELD)
    (tmp_path / "cran.qry").write_text(CRANFIELD_QUERIES)
    (tmp_path / "cranqrel.correct").write_text("004 0 1 1\n")
    with pytest.raises(InputError, match="judges query 004, but there are 2"):
        read_collection(tmp_path)


def test_cisi_drops_cross_references(tmp_path: Path) -> None:
    (tmp_path / "CISI.ALL").write_text(CISI)
    (tmp_path / "CISI.QRY").write_text(".I 1\n.W\nWhat problems are there\n")
    (tmp_path / "CISI.REL").write_text("     1     2\t0\t0.000000\n")
    found = read_collection(tmp_path)
    assert [d.text for d in found.documents] == [
        "18 Editions The present study is a history",
        "Use Made This report is an analysis",
    ]
    assert found.judgements == {"1": {"2": 1}}


def test_vaswani_and_beir_are_recognised(tmp_path: Path) -> None:
    vaswani = tmp_path / "vaswani"
    vaswani.mkdir()
    (vaswani / "doc-text.trec").write_text("<DOC>\n<DOCNO>1</DOCNO>\ncompact memories\n</DOC>\n")
    (vaswani / "query-text.trec").write_text("<top>\n<num>1</num><title>\nMEMORIES\n</title>\n</top>\n")
    (vaswani / "qrels").write_text("1 0 1 1\n")
    assert read_collection(vaswani).queries == {"1": "MEMORIES"}
    beir = tmp_path / "beir"
    (beir / "qrels").mkdir(parents=True)
    (beir / "corpus.jsonl").write_text('{"_id": "d", "title": "", "text": "x"}\n')
    (beir / "queries.jsonl").write_text('{"_id": "q", "text": "y"}\n{"_id": "unjudged", "text": "z"}\n')
    (beir / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td\t1\n")
    assert read_collection(beir).queries == {"q": "y"}
    with pytest.raises(InputError, match="holds no collection"):
        read_collection(tmp_path / "beir" / "qrels")


def test_a_run_is_written_as_trec_reads_it(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run.trec", {"q": [("a", 2.0), ("b", 1.5)]}, "tag")
    assert path.read_text().splitlines() == ["q Q0 a 1 2.000000 tag", "q Q0 b 2 1.500000 tag"]


def test_texts_are_cut_into_lines_at_newlines_only(tmp_path: Path) -> None:
    odd = "one\u2028two\x85three\x0cfour"
    (tmp_path / "a.jsonl").write_bytes(f'{{"id": "a", "text": "{odd[:9]}"}}\r\n{{"id": "b", "text": "x"}}\n'.encode())
    (tmp_path / "b.tsv").write_text(f"c\t{odd}\nd\tother\n", encoding="utf-8")
    (tmp_path / "c.csv").write_text(f'id,text\ne,{odd}\nf,"two\nlines"\n', encoding="utf-8")
    (tmp_path / "q.txt").write_text(f"{odd}\nsecond\n", encoding="utf-8")
    (tmp_path / "CISI.ALL").write_text(f".I 1\n.W\n{odd}\u2028.T\n", encoding="utf-8")
    (tmp_path / "CISI.QRY").write_text(".I 1\n.W\nwhat\n")
    (tmp_path / "CISI.REL").write_text("1 1\n")
    found = {document.id: document.text for document in read_documents([tmp_path / f for f in ("a.jsonl", "b.tsv")])}
    assert found == {"a": odd[:9], "b": "x", "c": odd, "d": "other"}
    assert [document.text for document in read_documents([tmp_path / "c.csv"])] == [odd, "two\nlines"]
    assert read_queries(tmp_path / "q.txt") == {"1": odd, "2": "second"}
    (document,) = read_collection(tmp_path).documents
    assert document.text == "one two three four .T"


def test_ids_with_blanks_are_read_and_written_alike(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "my notes.txt").write_text("salt")
    (tmp_path / "q.tsv").write_text("first query\tsalt\n")
    (document,), queries = read_documents([tmp_path / "texts"]), read_queries(tmp_path / "q.tsv")
    assert (document.id, list(queries)) == ("my_notes.txt", ["first_query"])
    path = write_run(tmp_path / "run.trec", {"first query": [("my notes.txt", 1.0), ("b", 0.5)], "empty": []})
    lines = path.read_text().splitlines()
    assert lines == ["first_query Q0 my_notes.txt 1 1.000000 foreknow", "first_query Q0 b 2 0.500000 foreknow"]
    for run in ({"q": [("a b", 1.0), ("a_b", 0.5)]}, {"a b": [("d", 1.0)], "a_b": [("d", 1.0)]}):
        with pytest.raises(InputError, match="cannot tell 'a b' from 'a_b'"):
            write_run(tmp_path / "run.trec", run)


def test_documentation_separates_summaries_from_bodies() -> None:
    found = documentation(("sklearn",), 50, seed=1)
    assert len(found.documents) == len(found.queries) == 50
    for document in found.documents:
        query = found.queries[document.id]
        assert len(query.split()) >= 4
        assert not document.text.startswith(query)
        assert found.judgements[document.id] == {document.id: 1.0}
    assert found == documentation(("sklearn",), 50, seed=1)
    assert found != documentation(("sklearn",), 50, seed=2)
    with pytest.raises(InputError, match="there are"):
        documentation(("sklearn",), 10**6)


def test_lee_news_has_the_judgements_of_people() -> None:
    found = lee_news()
    assert len(found.queries) == 50
    assert sum(document.id.startswith("judged") for document in found.documents) == 50
    for i, grades in found.judgements.items():
        assert grades[f"judged-{i}"] == -1
        for name, grade in grades.items():
            if grade > 0:  # likeness goes both ways
                assert found.judgements[name.removeprefix("judged-")][f"judged-{i}"] == grade
