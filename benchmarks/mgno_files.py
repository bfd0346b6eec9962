"""MgNO on the Darcy files of neuraloperator 0.3.0: trained at 16 x 16, measured there and at 32 x 32.

Run: python benchmarks/mgno_files.py FOLDER, which holds darcy_train_16.pt, darcy_test_16.pt and darcy_test_32.pt.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from foreknow.core.source import Sample
from foreknow.data.pde import read_fields
from foreknow.physics import FNORegressor, OperatorRegressor, PCARidge


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="without it there is nothing to do")
    parser.add_argument("--quick", action="store_true", help="one epoch")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.folder is None:
        print("no folder was given: nothing measured")
        return
    epochs = 1 if given.quick else given.epochs
    X, y = read_fields(given.folder / "darcy_train_16.pt")
    tests = {n: Sample(*read_fields(given.folder / f"darcy_test_{n}.pt")) for n in (16, 32)}
    on = OperatorRegressor(smoothing=(1, 1, 1, 2), epochs=epochs, random_state=given.seed)
    fitting = OperatorRegressor(lr=8e-3, epochs=epochs)._configuration().fitting()
    arms = {
        "MgNO": on,
        "without coarse grids": on.without_prior(),
        "FNO": FNORegressor(fitting, modes=8, random_state=given.seed),
        "PCA ridge": PCARidge(),
    }
    for name, arm in arms.items():
        model = arm.fit(X, y)
        for n, test in tests.items():
            if name == "PCA ridge" and n == 32:
                continue
            errors = on.losses(model, test)
            print(f"{name}, {n} x {n}: " + ", ".join(f"{key} {value:.4f}" for key, value in errors.items()))


if __name__ == "__main__":
    main()
