"""The plain methods that systems of tables name run in the harness, on rows with a missing cell and a category."""

from dataclasses import replace

import numpy as np
import pytest

from foreknow.core.registry import catalogue
from foreknow.pricing.arms import plain_arms, tables_of
from foreknow.pricing.sources import TableSource

SYSTEMS = {slug: entry.system() for slug, entry in catalogue().items() if tables_of(entry.system)}
NAMED_FIRST = {slug: next(iter(system.plain_baselines()), "") for slug, system in SYSTEMS.items()}
NAMED = [(slug, name) for slug, system in SYSTEMS.items() for name in system.plain_baselines()]


@pytest.mark.parametrize(("slug", "name"), NAMED)
def test_plain_methods_of_systems_run_on_tables(slug, name):
    pd = pytest.importorskip("pandas")
    task = SYSTEMS[slug]._task()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(70, 3))
    y = np.where(x[:, 1] > 0, "a", "b") if task == "classification" else x[:, 1] + 0.1 * rng.normal(size=70)
    x[::7, 0] = np.nan
    frame = pd.DataFrame(x, columns=list("pqr")).assign(kind=np.where(x[:, 2] > 0, "odd", "even"), target=y)
    source = TableSource(frame, "target", name="made up", task=task, max_test=20)
    (arm,) = (arm for arm in plain_arms(SYSTEMS[slug], task) if arm.name == name)
    found = arm.run(source.split(40, 0), 0).metrics
    if name == NAMED_FIRST[slug]:  # gaps in the rows asked about alone
        split = source.split(40, 0)
        train = replace(split.train, matrix=np.nan_to_num(split.train.matrix))
        assert np.isfinite(list(arm.run(replace(split, train=train), 0).metrics.values())).all()
    assert all(np.isfinite(value) for value in found.values())
    if task == "regression":
        assert found["rmse"] < 1.1  # standardised: the mean of the rows that are known has 1
