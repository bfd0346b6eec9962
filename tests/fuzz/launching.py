"""Start a fuzz target as its own small process."""

import os
import subprocess
import sys
from pathlib import Path

import foreknow


def launch(target: Path, folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run ``target`` in ``folder`` with libFuzzer's ``arguments``, importing the very package this suite tests.

    A shell stands between: Linux lets a child inherit its parent's peak of memory, and libFuzzer reads that peak, so
    that under a suite which once held two gigabytes it would report a lack of memory that it never had.
    """
    between = ["sh", "-c", '"$@"; exit $?', "sh"] if os.name == "posix" else []
    environment = os.environ | {"PYTHONPATH": str(Path(foreknow.__file__).parents[1])}
    command = [*between, sys.executable, str(target), "-seed=1", f"-artifact_prefix={folder}/", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=100
    )
