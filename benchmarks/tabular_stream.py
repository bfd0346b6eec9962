"""How fast and in how much memory `TabularClassifier` and `TabularRegressor` predict a parquet file, chunk by chunk.

Run: `OMP_NUM_THREADS=1 python benchmarks/tabular_stream.py [--rows 1000000] [--context 500] [--quick]`

The peer is a `Student` distilled from the same model: what the same rows cost without a context.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from foreknow import TabularClassifier, TabularRegressor
from foreknow.common.rng import numpy_stream
from foreknow.common.timing import peak_memory_mb
from foreknow.data.readers import iter_table

N_COLUMNS, GROUP = 10, 50_000


def main() -> None:
    """Print a row per estimator and per student: rows per second, and how far the peak of memory rose."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--chunk", type=int, default=65_536, help="rows read at a time")
    parser.add_argument("--context", type=int, default=500, help="rows the models are fitted to")
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="20 000 rows")
    options = parser.parse_args()
    n_rows = 20_000 if options.quick else options.rows
    torch.set_num_threads(options.threads)
    where = platform.processor() or platform.machine()
    print(f"{date.today()}, torch {torch.__version__}, {where}, {os.cpu_count()} cores, {options.threads} thread(s)")
    print(f"{n_rows} rows x {N_COLUMNS} columns in chunks of {options.chunk}, context {options.context} rows")
    rng = numpy_stream(0, "stream")
    X = rng.normal(size=(options.context, N_COLUMNS))
    y = X[:, 0] * X[:, 1] + X[:, 2] + 0.3 * rng.normal(size=options.context)
    settings = {"n_estimators": options.members, "random_state": 0}
    models = [TabularClassifier(**settings).fit(X, y > 0), TabularRegressor(**settings).fit(X, y)]
    print(f"{'':20} {'rows/s':>10} {'seconds':>9} {'peak memory +MiB':>17} {'of one more pass':>17}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        write(path, n_rows)
        for model in models:
            name = type(model).__name__
            predict = model.predict_proba if isinstance(model, TabularClassifier) else model.predict
            first = next(iter(iter_table(path, chunk_rows=2000)))
            predict(first)  # warm
            seconds, rise = stream(predict, path, options.chunk)
            # The peak no longer rises: memory does not grow with the rows that went through.
            again = stream(predict, path, options.chunk, most=2 * options.chunk)[1]
            print(f"{name:20} {n_rows / seconds:10,.0f} {seconds:9.1f} {rise:17.0f} {again:17.0f}", flush=True)
            student = model.distill("mlp", n_folds=2, n_mixed=0)
            quick = student.predict_proba if isinstance(model, TabularClassifier) else student.predict
            seconds, rise = stream(quick, path, options.chunk)
            print(f"{'  its mlp student':20} {n_rows / seconds:10,.0f} {seconds:9.1f} {rise:17.0f}", flush=True)


def write(path: Path, n_rows: int) -> None:
    """A parquet file of normal numbers in row groups of `GROUP` rows."""
    rng = numpy_stream(1, "rows")
    schema = pa.schema([(f"x{j}", pa.float64()) for j in range(N_COLUMNS)])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, n_rows, GROUP):
            x = rng.normal(size=(min(GROUP, n_rows - start), N_COLUMNS))
            writer.write_table(pa.table(list(x.T), schema=schema), row_group_size=GROUP)


def stream(predict: Callable[[Any], Any], path: Path, chunk: int, most: float = np.inf) -> tuple[float, float]:
    """Seconds for the rows of the file (or `most` of them), and by how many MiB the peak of memory rose."""
    before, start, done = peak_memory_mb(), time.perf_counter(), 0
    for table in iter_table(path, chunk_rows=chunk):
        predict(table)
        done += len(table)
        if done >= most:
            break
    return time.perf_counter() - start, peak_memory_mb() - before


if __name__ == "__main__":
    main()
