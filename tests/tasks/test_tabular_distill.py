"""Students: learnt out of fold, quick, without rows, of any kind of column."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.metrics import log_loss, r2_score
from sklearn.model_selection import cross_val_score

import foreknow
from foreknow import TabularClassifier, TabularRegressor
from foreknow.common.errors import CapabilityError, CheckpointError, ConfigError, InputError, NotFittedError
from foreknow.common.progress import Progress
from foreknow.common.rng import numpy_stream
from foreknow.tasks.tabular import distill
from foreknow.tasks.tabular.distill import KINDS, Student

CLASSIFIER = TabularClassifier(n_estimators=1, random_state=0)
REGRESSOR = TabularRegressor(n_estimators=1, random_state=0)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distill, "_STEPS", 200)


def frame(n: int = 150) -> tuple[pd.DataFrame, NDArray[np.float64]]:
    rng = numpy_stream(0, "distill")
    size = rng.normal(size=n)
    colour = np.array(["red", "green", "blue", None], dtype=object)[rng.integers(4, size=n)]
    table = pd.DataFrame(
        {"size": np.where(rng.uniform(size=n) < 0.1, np.nan, size), "colour": colour, "same": 1.0,
         "other": rng.normal(size=n) * 1e6}
    )  # fmt: skip
    return table, size + 2.0 * (colour == "red") + 0.1 * rng.normal(size=n)


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_predicts_nearly_as_its_teacher(kind: str) -> None:
    table, y = frame()
    labels = np.where(y > 0.5, "high", "low").astype(object)
    told: list[Progress] = []
    teacher = clone(CLASSIFIER).fit(table[:100], labels[:100])
    student = teacher.distill(kind, n_folds=3, progress=told.append)
    assert is_classifier(student) and student.classes_.tolist() == ["high", "low"]
    p, expected = student.predict_proba(table[100:]), teacher.predict_proba(table[100:])
    assert np.allclose(p.sum(axis=1), 1) and np.abs(p - expected).mean() < 0.12
    assert student.score(table[100:], labels[100:]) > 0.75
    truth = (labels[100:] == "low").astype(int)
    found = student.agreement_
    assert found.measure == "log-loss" and found.n_rows == 34 and 0 < found.between < 0.15
    assert found.student == pytest.approx(log_loss(truth, p[:, 1]), abs=0.25)
    assert [step.done for step in told] == list(range(1, 8)) and told[-1].total == 7
    assert np.isfinite(student.predict_proba(table[100:].assign(colour="violet"))).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_of_numbers(kind: str) -> None:
    table, y = frame()
    y = 1e5 * y - 1e7
    teacher = clone(REGRESSOR).fit(table[:100], y[:100])
    student = teacher.distill(kind, n_folds=3)
    assert is_regressor(student) and not hasattr(student, "predict_proba")
    assert r2_score(teacher.predict(table[100:]), student.predict(table[100:])) > 0.9
    assert student.agreement_.measure == "R2" and student.agreement_.between > 0.85


def test_labels_come_from_teachers_that_saw_neither_the_row_nor_its_parents(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = numpy_stream(1)
    X, y = rng.normal(size=(40, 2)), rng.normal(size=40)
    outputs, labelled = distill._outputs, []

    def watched(teacher: TabularRegressor, x: NDArray[np.float64]) -> NDArray[np.float64]:
        assert not set(teacher._x.ravel()) & set(x.ravel())
        labelled.append((len(teacher._x), len(x)))
        return outputs(teacher, x)

    monkeypatch.setattr(distill, "_outputs", watched)
    Student(REGRESSOR, kind="boosting", n_mixed=1, random_state=0).fit(X, y)
    # Five teachers for the trial (of 32 rows), the one that judges it on the other eight, five for the student.
    assert sorted(labelled) == [(25, 14)] * 2 + [(26, 12)] * 3 + [(32, 8)] + [(32, 16)] * 5


def test_unlabelled_rows_join_the_lessons(monkeypatch: pytest.MonkeyPatch) -> None:
    table, y = frame(80)
    teacher = clone(REGRESSOR).fit(table[:40], y[:40])
    sizes: list[int] = []
    fit = distill.Trees.fit
    monkeypatch.setattr(distill.Trees, "fit", lambda x, *rest: (sizes.append(len(x)), fit(x, *rest))[1])
    teacher.distill(n_folds=2, n_mixed=0, unlabelled=table[40:])
    assert sizes == [20, 80]


def test_a_student_is_an_estimator_like_others() -> None:
    table, y = frame(60)
    student = Student(CLASSIFIER, kind="boosting", n_folds=2, n_mixed=0, random_state=0)
    assert cross_val_score(student, table, y > 0.5, cv=2).mean() > 0.7
    first, second = (clone(student).fit(table, y > 0.5).predict_proba(table) for _ in range(2))
    assert np.array_equal(first, second)
    with pytest.raises(NotFittedError):
        student.predict(table)
    with pytest.raises(InputError, match="4 features"):
        clone(student).fit(table, y > 0.5).predict(table[["size"]])


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_saved_student_predicts_the_same_and_holds_no_rows(task: str, tmp_path: Path) -> None:
    table, y = frame(50)
    target = np.digitize(y, [0, 1]) if task == "classification" else y
    teacher = clone(CLASSIFIER if task == "classification" else REGRESSOR).fit(table, target)
    student = teacher.distill("mlp", n_folds=2)
    path = student.save(tmp_path / "student.safetensors")
    again = Student.load(path)
    assert np.array_equal(again.predict(table), student.predict(table)) and again.agreement_ == student.agreement_
    file = foreknow.Checkpoint.load(path)
    assert not file.contains_rows
    cells = set(table["other"]) | set(y)
    assert not any(cells & set(tensor.double().ravel().tolist()) for tensor in file.tensors.values())
    assert len(json.dumps(file.config)) < 5000
    with pytest.raises(CheckpointError, match=r"holds a|not a"):
        Student.load(teacher.save(tmp_path / "teacher.safetensors"))
    wrong = {**file.tensors, "network.weight1": file.tensors["network.weight1"][:3]}
    foreknow.Checkpoint(kind="Student", config=file.config, tensors=wrong).save(path)
    with pytest.raises(CheckpointError, match="belong together"):
        Student.load(path)
    foreknow.Checkpoint(kind="Student", config={}, tensors={}).save(path)
    with pytest.raises(CheckpointError, match="does not hold a student"):
        Student.load(path)


def test_what_cannot_be_distilled_or_saved_is_refused(tmp_path: Path) -> None:
    table, y = frame(30)
    teacher = clone(REGRESSOR).fit(table, y)
    with pytest.raises(ConfigError, match="kind"):
        teacher.distill("forest")
    with pytest.raises(ConfigError, match="n_folds"):
        teacher.distill(n_folds=1)
    with pytest.raises(InputError, match="too few"):
        teacher.distill(n_folds=16)
    with pytest.raises(CapabilityError, match="mlp"):
        teacher.distill(n_folds=2, n_mixed=0).save(tmp_path / "student.safetensors")
    with pytest.raises(NotFittedError):
        REGRESSOR.__class__().distill()
