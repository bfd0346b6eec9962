"""An `EarlyStopper` in other people's training loops: Optuna, Lightning, Hugging Face Trainer, Ray Tune."""

from foreknow.tasks.lc_pfn.adapters.lightning import lightning_callback
from foreknow.tasks.lc_pfn.adapters.optuna import optuna_pruner
from foreknow.tasks.lc_pfn.adapters.transformers import transformers_callback
from foreknow.tasks.lc_pfn.adapters.tune import tune_scheduler

__all__ = ["lightning_callback", "optuna_pruner", "transformers_callback", "tune_scheduler"]
