"""The file of predictions, and what is remembered of it."""

import csv
import io

import numpy as np
import pytest

from foreknow.report import predictions
from foreknow.report.predictions import ClassWriter, NumberWriter, open_predictions

CLASSES = ("plain", 'comma, "quote"\nline', "=1+1")


def some(n, seed=0):
    p = np.random.default_rng(seed).dirichlet(np.ones(3), n)
    return np.arange(n) + 1, p


def test_rows_read_back_whatever_the_classes_are_called():
    rows, p = some(40)
    file = io.StringIO(newline="")
    writer = ClassWriter(file, CLASSES)
    writer.add(rows[:25], p[:25], "test file")
    writer.add(rows[25:], p[25:], ["out-of-fold"] * 15)
    found = writer.finish()
    file.seek(0)
    header, *lines = csv.reader(file)
    assert header == ["row", "predicted", *(f"p_{name}" for name in CLASSES), "confidence", "source"]
    assert [int(line[0]) for line in lines] == rows.tolist()
    np.testing.assert_allclose(np.array([line[2:5] for line in lines], dtype=float), p, rtol=1e-5)
    assert [line[1] for line in lines] == [CLASSES[code] for code in p.argmax(1)]
    assert [float(line[5]) for line in lines] == pytest.approx(p.max(1), rel=1e-5)
    assert found.sources == {"test file": 25, "out-of-fold": 15} and found.n_rows == 40
    assert found.class_counts.tolist() == np.bincount(p.argmax(1), minlength=3).tolist()
    assert found.confidence_counts.sum() == 40 and found.held_out is None
    assert [row.row for row in found.uncertain] == (np.argsort(p.max(1), kind="stable")[:20] + 1).tolist()
    ordered = np.sort(p[found.uncertain[0].row - 1])
    assert (found.uncertain[0].confidence, found.uncertain[0].p_second) == (ordered[2], ordered[1])


def test_held_out_quality_comes_from_a_bounded_random_sample(monkeypatch):
    monkeypatch.setattr(predictions, "MAX_KEPT", 100)
    writer = ClassWriter(io.StringIO(), CLASSES)
    for start in range(0, 1000, 50):  # the first half is judged right, the second wrong
        truth = np.zeros(50, dtype=np.int64)
        truth[:5], truth[5:10] = -1, -2
        writer.judge(np.tile([0.8, 0.1, 0.1] if start < 500 else [0.1, 0.8, 0.1], (50, 1)), truth)
    held_out = writer.finish().held_out
    assert (held_out.n_rows, held_out.n_unknown, held_out.sampled) == (100, 100, True)
    assert 0.3 < held_out.scores["accuracy"].value < 0.7
    assert held_out.to_dict()["scores"]["auc"]["value"] is None


def test_an_interrupted_file_leaves_the_old_one(tmp_path):
    path = tmp_path / "predictions.csv"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), open_predictions(path, CLASSES) as writer:
        writer.add(*some(5), "test file")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_numbers_are_written_with_their_quantiles_and_the_widest_rows_are_remembered():
    file = io.StringIO(newline="")
    writer = NumberWriter(file)
    output = np.array([[1.0, 0.5, 1.1, 2.0, np.nan], [-3.0, -9.0, -3.0, 4.0, np.nan], [1234567.25, 0.0, 1.0, 2.0, 0.0]])
    writer.add(np.array([4, 7, 9]), output, "empty target")
    writer.add(np.array([11]), np.array([[5.0, np.nan, np.nan, np.nan, np.nan]]), "test file")  # states no interval
    writer.judge(output, np.array([1.5, np.nan, 3.0]))
    found = writer.finish()
    assert file.getvalue().splitlines() == [
        "row,prediction,quantile_0.05,quantile_0.5,quantile_0.95,source",
        "4,1,0.5,1.1,2,empty target",
        "7,-3,-9,-3,4,empty target",
        "9,1234567.25,0,1,2,empty target",
        "11,5,,,,test file",
    ]
    assert [row.row for row in found.widest] == [7, 9, 4] and found.means.tolist() == [1.0, -3.0, 1234567.25, 5.0]
    assert (found.held_out.n_rows, found.held_out.n_unknown) == (2, 0)
    assert found.held_out.coverage.whole.share == 0.5 and found.class_counts.size == 0
