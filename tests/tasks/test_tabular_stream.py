"""Many rows are predicted in bounded memory, and one row quickly."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from foreknow import TabularClassifier, TabularRegressor
from foreknow.common.rng import numpy_stream
from foreknow.data.readers import iter_table, read_table

ROOT = Path(__file__).resolve().parents[2]
N_CONTEXT, N_COLUMNS = 40, 10


class Largest(TorchDispatchMode):
    """Keeps the number of elements of the largest tensor that any operation returned."""

    n = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        found = func(*args, **(kwargs or {}))
        for value in found if isinstance(found, tuple | list) else (found,):
            self.n = max(self.n, value.numel() if isinstance(value, torch.Tensor) else 0)
        return found


def fitted(kind: type[TabularClassifier] | type[TabularRegressor]) -> TabularClassifier | TabularRegressor:
    X = numpy_stream(0, "context").normal(size=(N_CONTEXT, N_COLUMNS))
    y = X[:, 0] + X[:, 1] ** 2
    return kind(n_estimators=1, random_state=0).fit(X, y > 1 if kind is TabularClassifier else y)


@pytest.fixture(scope="module")
def stream() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(ROOT / "benchmarks" / "tabular_stream.py"), run_name="stream"))


def test_a_parquet_file_in_chunks_is_predicted_as_in_one_go(tmp_path: Path, stream: SimpleNamespace) -> None:
    path, model = tmp_path / "rows.parquet", fitted(TabularClassifier)
    stream.write(path, 1500)
    chunks = [model.predict_proba(table) for table in iter_table(path, chunk_rows=400)]
    assert [len(chunk) for chunk in chunks] == [400, 400, 400, 300]
    assert np.allclose(np.concatenate(chunks), model.predict_proba(read_table(path)), atol=1e-10)
    seconds, rise = stream.stream(model.predict_proba, path, 500, most=1000)
    assert 0 < seconds < 60 and 0 <= rise < 2000


@pytest.mark.parametrize("kind", [TabularClassifier, TabularRegressor])
def test_no_tensor_grows_with_the_rows_beyond_those_of_the_table(
    kind: type[TabularClassifier] | type[TabularRegressor],
) -> None:
    model, new = fitted(kind), numpy_stream(1).normal(size=(3000, N_COLUMNS))
    model.chunk_size = 128
    model.predict(new[:1])  # what depends on the context alone is computed once
    largest = []
    for n in (256, 3000):
        with Largest() as seen:
            model.predict(new[:n])
        largest.append(seen.n)
    # The table itself (rows x columns) is the only thing that may be larger than what a chunk needs.
    assert largest[1] <= max(largest[0], 3000 * N_COLUMNS)
    assert largest[0] < 3000 * N_CONTEXT
