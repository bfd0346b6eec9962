"""The page: nothing from the table is markup, nothing comes from outside, every picture has words beside it."""

import dataclasses
import re

import numpy as np
import pytest
from html_page import Page

from foreknow.common.errors import ForeknowWarning
from foreknow.data.table import Column, Table
from foreknow.report.html import render, summarise
from foreknow.report.job import predict_table
from foreknow.report.scores import Score
from foreknow.report.words import comparison, headline

EVIL = (
    '<script>alert("x")</script>',
    "comma, 'quote' & \"more\"",
    "line\nbreak $x^2$ </svg> https://evil.example/?src=1",
)


@pytest.fixture(scope="module")
def job(make_table, stand_in, quick, tmp_path_factory):
    table = make_table(60, EVIL, n_empty=6)
    renamed = tuple(
        dataclasses.replace(c, name=name)
        for c, name in zip(table.columns[:2], ('<img src="http://a.b/c.png">', 'q"<b>'))
    )
    values = table.column("word").values.copy()
    values[:20] = "<style>*{display:none}</style>"
    renamed = (renamed[0], Column(renamed[1].name, "categorical", values))
    table = Table((*renamed, *table.columns[2:]))
    return predict_table(
        table, "kind", predictor=stand_in(), baselines=quick, out=tmp_path_factory.mktemp("job"), n_folds=3,
        source="<u>t</u>.csv", command="foreknow predict '<u>t</u>.csv'",
    )  # fmt: skip


def test_nothing_of_the_table_becomes_markup(job):
    page = Page(job.report_path.read_text(encoding="utf-8"))
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "img", "iframe", "link", "object", "u", "b", "i", "base"}
    assert sum(tag == "style" for tag, _ in page.elements) == 1
    for words in (EVIL[0], EVIL[1], '<img src="http://a.b/c.png">', "<style>*{display:none}</style>", "<u>t</u>.csv",
                  "<i>day</i>", "constant & dull"):  # fmt: skip
        assert words in page.text, words
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)


def test_nothing_is_fetched_from_anywhere(make_table, stand_in, quick, tmp_path, job):
    page = Page(job.report_path.read_text(encoding="utf-8"))
    for tag, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "data", "action", "srcset", "poster"):
            if name in attributes:
                assert attributes[name].startswith(("#", "data:image/png;base64,")), (tag, attributes)
        assert all(
            ref.startswith("#") for ref in re.findall(r"url\(([^)]*)\)", " ".join(map(str, attributes.values())))
        )
    plain = predict_table(
        make_table(), "kind", predictor=stand_in(), baselines=quick, out=tmp_path / "plain", n_folds=2
    )
    text = plain.report_path.read_text()
    assert not re.search(r"https?://|\bsrc=|@import|xmlns", text)
    assert len(text) < 400_000


def test_pictures_have_labels_and_unique_identifiers_and_tables_have_headers(job):
    page = Page(job.report_path.read_text(encoding="utf-8"))
    pictures = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert len(pictures) == 7
    assert all(picture["role"] == "img" and len(picture["aria-label"]) > 20 for picture in pictures)
    names = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(names) == len(set(names))
    used = {attributes["href"][1:] for tag, attributes in page.elements if tag == "use"}
    assert used and used <= set(names)
    count = lambda tag: sum(found == tag for found, _ in page.elements)  # noqa: E731
    assert count("table") == count("caption") >= 6
    assert all("scope" in attributes for tag, attributes in page.elements if tag == "th")
    assert ("html", {"lang": "en"}) in page.elements
    text = job.report_path.read_text()
    assert "prefers-color-scheme: dark" in text and "@media print" in text


def test_the_page_says_what_was_measured(job):
    text = Page(job.report_path.read_text(encoding="utf-8")).text
    for sentence in headline(job.evaluation, job.curve):
        assert " ".join(sentence.split()) in text
    for arm in job.evaluation.arms:
        assert f"{arm.scores['log_loss'].value:.3f}" in text and arm.name in text
    assert "empty in 6 rows" in text and "6 rows are in predictions.csv" in text
    first = job.predictions.uncertain[0]
    assert f"{100 * first.confidence:.1f}%" in text
    for name, version in job.environment.items():
        assert name in text and str(version) in text


@pytest.mark.parametrize(
    ("excess", "verdict", "says"),
    [
        (Score(0.2, 0.1, 0.3), "better", "better than those of the strongest plain baseline, logistic regression"),
        (Score(-0.2, -0.3, -0.1), "worse", "A plain baseline wins on this table: logistic regression"),
        (Score(0.05, -0.1, 0.2), "even", "no clear difference"),
    ],
)
def test_the_verdict_is_honest(job, excess, verdict, says):
    ours, best, *rest = job.evaluation.arms
    evaluation = dataclasses.replace(job.evaluation, arms=(ours, dataclasses.replace(best, excess=excess), *rest))
    assert evaluation.verdict == verdict and says in comparison(evaluation)
    if verdict != "even":
        assert "by 0.200 nats a row (95% interval 0.100 to 0.300)" in comparison(evaluation)
    page = render(dataclasses.replace(job, evaluation=evaluation))
    assert f'class="verdict {verdict}"' in page and says in page


def test_without_baselines_there_is_nothing_to_compare(job):
    evaluation = dataclasses.replace(job.evaluation, arms=job.evaluation.arms[:1])
    assert (evaluation.verdict, comparison(evaluation), len(headline(evaluation))) == ("alone", "", 2)
    assert 'class="verdict alone"' in render(dataclasses.replace(job, evaluation=evaluation))


def test_many_columns_and_classes_are_cut_and_said(stand_in, quick, tmp_path):
    n, k = 150, 45
    columns = [Column(f"c{i}", "numeric", np.random.default_rng(i).normal(size=n)) for i in range(110)]
    target = np.array([f"class {i % k}" for i in range(n)], dtype=object)
    table = Table((*columns, Column("y", "categorical", target)))
    quick = {"class frequencies": quick["class frequencies"]}
    with pytest.warns(ForeknowWarning, match="45 classes"):
        job = predict_table(table, "y", predictor=stand_in(), baselines=quick, out=tmp_path, n_folds=2)
    text = Page(job.report_path.read_text()).text
    assert "10 more are not listed" in text and "The first 16 columns" in text
    assert "confusion matrix of 45 classes is not drawn" in text and "the eight largest classes" in text


def test_a_column_in_a_line():
    day = summarise(Column("d", "date", np.array([0.0, 86400.0, np.nan])))
    assert (day.n_missing, day.n_distinct, day.content) == (1, 2, "1970-01-01 to 1970-01-02")
    words = summarise(Column("w", "categorical", np.array(["b", "a", "b", "c", "d", "e", None], dtype=object)))
    assert words.content.startswith("b (2), a (1)") and words.content.endswith(", …")
    assert summarise(Column("b", "boolean", np.array([1.0, 0.0, 1.0]))).content == "true (2), false (1)"
    assert summarise(Column("n", "numeric", np.array([1.0, 2.0, 4.0]))).content == "1 to 4, median 2"
    assert summarise(Column("e", "numeric", np.array([np.nan]))).content == "no value at all"
