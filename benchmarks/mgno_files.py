"""MgNO on the Darcy files of neuraloperator 0.3.0: trained at 16 x 16, measured there and at 32 x 32.

Run: pip download --no-deps neuraloperator==0.3.0
     python benchmarks/mgno_files.py neuraloperator-0.3.0-py3-none-any.whl

A folder with the three files does as well. The package is read, not installed: it
would bring another version of much, and newer ones have no data.
"""

from __future__ import annotations

import argparse
import tempfile
import zipfile
from pathlib import Path

from foreknow.core.source import Sample
from foreknow.data.pde import read_fields
from foreknow.physics import FNORegressor, OperatorRegressor, PCARidge

INSIDE = "neuralop/datasets/data"
FILES = ("darcy_train_16.pt", "darcy_test_16.pt", "darcy_test_32.pt")


def read(place: Path) -> dict[str, Sample]:
    """The pairs of each file, from a folder or a wheel."""
    with tempfile.TemporaryDirectory() as folder:
        if place.suffix == ".whl":
            with zipfile.ZipFile(place) as wheel:
                for name in FILES:
                    (Path(folder) / name).write_bytes(wheel.read(f"{INSIDE}/{name}"))
            place = Path(folder)
        return {name: Sample(*read_fields(place / name)) for name in FILES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("place", type=Path, nargs="?", help="wheel or folder; without it there is nothing to do")
    parser.add_argument("--quick", action="store_true", help="one epoch")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.place is None:
        print("no wheel or folder was given: nothing measured")
        return
    epochs = 1 if given.quick else given.epochs
    pairs = read(given.place)
    train, tests = pairs[FILES[0]], {16: pairs[FILES[1]], 32: pairs[FILES[2]]}
    on = OperatorRegressor(smoothing=(1, 1, 1, 2), epochs=epochs, random_state=given.seed)
    fitting = OperatorRegressor(lr=8e-3, epochs=epochs)._configuration().fitting()
    arms = {
        "MgNO": on,
        "without coarse grids": on.without_prior(),
        "FNO": FNORegressor(fitting, modes=8, random_state=given.seed),
        "PCA ridge": PCARidge(),
    }
    for name, arm in arms.items():
        model = arm.fit(train.X, train.y)
        for n, test in tests.items():
            if name == "PCA ridge" and n == 32:
                continue
            errors = on.losses(model, test)
            numbers = ", ".join(f"{key} {value:.4f}" for key, value in errors.items())
            print(f"{name}, {n} x {n}: {numbers}", flush=True)


if __name__ == "__main__":
    main()
