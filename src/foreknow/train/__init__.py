"""One training loop for all systems."""

from foreknow.common.lazy import lazy_names as _lazy_names

_PUBLIC = {
    "Muon": "foreknow.train.optim",
    "StepInfo": "foreknow.train.loop",
    "TrainConfig": "foreknow.train.config",
    "TrainResult": "foreknow.train.loop",
    "TrainingInterrupted": "foreknow.train.loop",
    "train": "foreknow.train.loop",
}

__all__ = sorted(_PUBLIC)  # noqa: PLE0605

__getattr__, __dir__ = _lazy_names(__name__, _PUBLIC)
