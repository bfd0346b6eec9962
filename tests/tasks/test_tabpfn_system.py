"""`TabPFN`: preparation by the context alone, the ensemble, tables beyond its limits, files, the shipped network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_iris, load_wine

import foreknow
from foreknow import TabularClassifier
from foreknow.common.errors import ConfigError, ForeknowWarning, InputError
from foreknow.common.rng import numpy_stream
from foreknow.core.predictive import Bar, Transformed
from foreknow.core.registry import lookup
from foreknow.tasks.tabpfn.members import Member, Preparation, members
from foreknow.tasks.tabpfn.network import RowSettings, build_network
from foreknow.tasks.tabpfn.system import TabPFN
from foreknow.tasks.tabpfn.training import prior_of
from foreknow.tasks.tabular.priors import paper_prior

RNG = numpy_stream(0, "tabpfn", "tests")
X = RNG.normal(size=(40, 4))
Y = np.digitize(X[:, 0] + X[:, 1], [-0.5, 0.5])


def stored(folder: Path, **sizes: Any) -> str:
    """The file of a small untrained row network; its vote-free answers differ from row to row."""
    network = build_network(RowSettings(**{"width": 16, "depth": 1, "n_heads": 2, "hidden": 16, **sizes}), seed=5)
    path = folder / "rows.safetensors"
    network.save(path, prior_of("rows", network.settings.task), {})
    return str(path)


# Members and their columns -----------------------------------------------------------------------------------------


def test_members_are_pairs_of_shifts_without_and_with_power_transform() -> None:
    found = members(7, 3, 2, seed=1)
    assert [member.power for member in found] == [False, True] * 3 + [False]
    assert found[0].column_shift == found[1].column_shift
    assert found[0].class_shift == found[1].class_shift
    everything = members(100, 3, 2, seed=1)
    assert len(set(everything)) == len(everything) == 12
    assert found == everything[:7]
    assert members(7, 3, 2, seed=2) != found
    assert {member.class_shift for member in members(100, 5, 1, seed=1)} == {0}


def test_columns_are_standardised_transformed_and_clamped_by_the_context_alone() -> None:
    context = np.column_stack([X[:, 0] * 3 + 7, np.exp(2 * X[:, 1]), np.ones(40), X[:, 2]])
    context[3, 3] = np.nan
    plain, power = (Preparation.of(context, power=power) for power in (False, True))
    assert plain.kept.tolist() == [0, 1, 3]
    new = context[:5] * 1.5
    for prepared in (plain, power):
        assert np.array_equal(prepared(np.concatenate([new, new * 100]))[:5], prepared(new), equal_nan=True)
    z = plain(context)
    inner = np.abs(z[:, 0]) < 3
    assert np.allclose(z[inner, 0], stats.zscore(context[:, 0])[inner])
    assert np.isnan(z[3, 2])
    assert abs(stats.skew(power(context)[:, 1])) < 0.5 * abs(stats.skew(z[:, 1]))
    far = np.full((1, 4), 1e9)
    assert plain(far).max() < 4 * 1.2 + np.log1p(1e6)
    assert np.isfinite(power(far)[:, :2]).all()


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1e30, 1e200])
def test_any_scale_is_prepared_alike(scale: float) -> None:
    found = Preparation.of(X * scale, power=False)(X * scale)
    assert np.allclose(found, Preparation.of(X, power=False)(X), atol=1e-6)


def test_class_and_column_shifts_are_undone(tmp_path: Path) -> None:
    """A member that saw shifted columns and classes answers for the classes as they are."""
    model = TabPFN("rows", weights=stored(tmp_path, n_classes=3), n_estimators=1, random_state=0).fit(X, Y)
    for member in (Member(False, 0, 0), Member(False, 1, 2)):
        one = model._encode(member, 0, 3)
        preparation = Preparation.of(X, power=False)
        rows = torch.as_tensor(np.roll(preparation(X), -member.column_shift, axis=1))[None].float()
        y = torch.as_tensor((Y + member.class_shift) % 3)[None].float()
        logits = model.network_(rows, y, rows)[0].double() / 0.8
        expected = logits.softmax(-1)[:, [(code + member.class_shift) % 3 for code in range(3)]]
        assert torch.allclose(model._probabilities(one, X), expected, atol=1e-6)


def test_probabilities_are_the_mean_over_members(tmp_path: Path) -> None:
    model = TabPFN("rows", weights=stored(tmp_path), n_estimators=3, random_state=0).fit(X, Y)
    with torch.inference_mode():
        mean = sum(model._probabilities(one, X) for one in model.members_) / 3
    assert np.allclose(model.predict_proba(X), mean.numpy(), atol=1e-9)
    sharper = TabPFN("rows", weights=stored(tmp_path), n_estimators=3, temperature=0.1, random_state=0).fit(X, Y)
    assert sharper.predict_proba(X).max() > model.predict_proba(X).max()


# Beyond its limits -------------------------------------------------------------------------------------------------


def test_more_classes_than_the_row_form_knows_are_refused_and_the_cell_form_takes_them(tmp_path: Path) -> None:
    eleven = np.arange(44) % 11
    table = RNG.normal(size=(44, 3))
    with pytest.raises(InputError, match="11 classes, this network knows at most 10"):
        TabPFN("rows", weights=stored(tmp_path)).fit(table, eleven)
    assert TabPFN(n_estimators=1, random_state=0).fit(table, eleven).predict_proba(table).shape == (44, 11)
    with pytest.raises(InputError, match="one class"):
        TabPFN().fit(table, np.zeros(44))


def test_more_columns_than_the_network_has_are_sampled_with_a_warning(tmp_path: Path) -> None:
    model = TabPFN("rows", weights=stored(tmp_path, max_features=3), n_estimators=4, random_state=0)
    with pytest.warns(ForeknowWarning, match="random choice of 3 of 4 columns"):
        model.fit(X, Y)
    assert all(len(one.columns) == 3 for one in model.members_)
    assert len({tuple(one.columns) for one in model.members_}) > 1


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_more_rows_than_allowed_are_sampled_with_a_warning(task: str, tmp_path: Path) -> None:
    table = RNG.normal(size=(200, 2))
    y = (np.arange(200) < 4).astype(int) if task == "classification" else np.arange(200.0)
    model = TabPFN("rows", weights=stored(tmp_path, task=task), task=task, n_estimators=2, max_rows=40, random_state=0)
    with pytest.warns(ForeknowWarning, match="stratified sample of 40 of 200 rows"):
        model.fit(table, y)
    k = 2 if task == "classification" else 1
    first, second = model._rows_of(0, k), model._rows_of(1, k)
    assert len(set(first.tolist())) == 40
    assert not np.array_equal(first, second)
    if k == 2:
        assert 1 <= (first < 4).sum() <= 2
    else:  # four rows of every tenth
        assert np.bincount(first // 20).tolist() == [4] * 10


# Tasks, files, weights ---------------------------------------------------------------------------------------------


def test_numbers_come_back_in_their_units(tmp_path: Path) -> None:
    path = stored(tmp_path, task="regression", n_buckets=8)
    y = X[:, 0]
    models = [
        TabPFN("rows", task="regression", weights=path, random_state=0).fit(X, target) for target in (y, 1e6 + 50 * y)
    ]
    dist = models[1].predict_dist(X)
    assert isinstance(dist, Transformed)
    assert isinstance(dist.base, Bar)
    assert np.allclose(models[1].predict(X), 1e6 + 50 * models[0].predict(X), atol=1e-2)
    quantiles = models[1].predict(X, quantiles=[0.1, 0.9])
    assert (quantiles[:, 0] < quantiles[:, 1]).all()


def test_a_cell_network_for_numbers_is_trained_on_the_spot() -> None:
    model = TabPFN(task="regression", weights="fit", preset="quick", n_estimators=1, random_state=0).fit(X, X[:, 0])
    assert np.isfinite(model.predict(X)).all()


def test_what_does_not_ship_is_refused_with_the_command_that_trains_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="form='rows'") as caught:
        TabPFN("rows").fit(X, Y)
    assert "foreknow pretrain tabpfn --weights tabpfn-rows" in str(caught.value.hint)
    with pytest.raises(ConfigError, match="holds a network for form='rows', task='classification'"):
        TabPFN("cells", weights=stored(tmp_path)).fit(X, Y)
    with pytest.raises(ConfigError, match="fitted to one mixture"):
        TabPFN("rows", prior=paper_prior()).fit(X, Y)


def test_off_is_the_same_network_before_training() -> None:
    table, y = load_iris(return_X_y=True)
    on, off = (TabPFN(n_estimators=1, random_state=0, prior=prior).fit(table, y) for prior in ("paper", "off"))
    assert off.network_.settings == on.network_.settings
    assert not bool(off.network_.blocks[0].attention.out.weight.any())
    assert bool(on.network_.blocks[0].attention.out.weight.any())


def test_a_saved_model_carries_its_network(tmp_path: Path) -> None:
    weights = stored(tmp_path)
    model = TabPFN("rows", weights=weights, random_state=0).fit(X, Y)
    path = model.save(tmp_path / "model.safetensors")
    Path(weights).unlink()
    assert np.array_equal(foreknow.load(path).predict_proba(X), model.predict_proba(X))
    assert foreknow.Checkpoint.load(path).contains_rows


def test_text_dates_and_gaps_go_in_as_they_are() -> None:
    table = pd.DataFrame(
        {"size": np.where(X[:, 0] > 1, np.nan, X[:, 0]), "kind": np.where(X[:, 1] > 0, "a", "b"), "same": 1}
    )
    model = TabPFN(random_state=0).fit(table, np.where(Y > 0, "yes", "no"))
    assert [note.action for note in model.notes_] == ["kept", "encoded", "dropped"]
    assert np.isfinite(model.predict_proba(table.assign(kind="c"))).all()


def test_queries_in_pieces_equal_queries_at_once() -> None:
    model = TabPFN(random_state=0).fit(X, Y)
    whole = model.predict_proba(X)
    model.chunk_size = 7
    assert np.allclose(model.predict_proba(X), whole, atol=1e-5)


def test_the_shipped_network_reads_real_tables() -> None:
    for table, y in (load_iris(return_X_y=True), load_wine(return_X_y=True)):
        model = TabPFN(random_state=0).fit(table[::2], y[::2])
        assert (model.predict(table[1::2]) == y[1::2]).mean() > 0.85


def test_it_is_the_system_of_its_card() -> None:
    entry = lookup("tabpfn")
    assert entry.system is TabPFN
    assert TabularClassifier in entry.estimators
    assert all(kind.card is TabPFN.card for kind in (TabularClassifier, *entry.priors))
