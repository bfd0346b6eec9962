"""The early stopper in real training loops of other libraries."""

from __future__ import annotations

import contextlib
import os
import random
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from curve_stand_in import PowerForecaster

from foreknow.common.errors import ConfigError
from foreknow.tasks.lc_pfn.adapters import lightning_callback, optuna_pruner, transformers_callback, tune_scheduler
from foreknow.tasks.lc_pfn.stopping import EarlyStopper

HORIZON = 20


def accuracy(best, epoch):
    return best - 0.3 / epoch


@contextlib.contextmanager
def left_alone():
    """The libraries warn on their own account and seed the global generators: neither is our concern."""
    python, numbers, tensors = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numbers)  # noqa: NPY002
            torch.set_rng_state(tensors)


# Optuna ------------------------------------------------------------------------------------------------------------


def test_optuna_prunes_what_will_not_win():
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    stopper = EarlyStopper(PowerForecaster(), HORIZON)

    def objective(trial):
        best = trial.suggest_float("best", 0.4, 0.95)
        for step in range(HORIZON):
            trial.report(accuracy(best, step + 1), step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return accuracy(best, HORIZON)

    with left_alone():
        study = optuna.create_study(direction="maximize", pruner=optuna_pruner(stopper), study_name="s")
        for best in (0.9, 0.5, 0.92, 0.45):
            study.enqueue_trial({"best": best})
        study.optimize(objective, n_trials=4)
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE", "PRUNED", "COMPLETE", "PRUNED"]
    assert 4 <= len(study.trials[1].intermediate_values) < HORIZON
    assert stopper.best == ("s/2", accuracy(0.92, HORIZON))
    # A new process that goes on with the study knows its trials.
    later = EarlyStopper(PowerForecaster(), HORIZON)
    with left_alone():
        trial = study.ask({"best": optuna.distributions.FloatDistribution(0.4, 0.95)})
        for step in range(8):
            trial.report(accuracy(0.4, step + 1), step)
        assert optuna_pruner(later).prune(study, study.trials[trial.number])
    assert len(later.runs) == 5
    with left_alone(), pytest.raises(ConfigError, match="the study minimizes"):
        optuna.create_study(direction="minimize", pruner=optuna_pruner(stopper)).optimize(objective, n_trials=1)


# Lightning ---------------------------------------------------------------------------------------------------------


def lightning_run(lightning, callback, best, folder, **settings):
    class Model(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)

        def training_step(self, batch, index):
            return self.layer(batch[0]).square().mean()

        def validation_step(self, batch, index):
            self.log("val_acc", accuracy(best, self.current_epoch + 1))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)

    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(4, 2)), batch_size=4)
    trainer = lightning.Trainer(
        max_epochs=HORIZON, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=folder, callbacks=[callback], **settings,
    )  # fmt: skip
    trainer.fit(Model(), data, data)
    return trainer


def test_lightning_stops_a_run(tmp_path):
    lightning = pytest.importorskip("lightning.pytorch")
    stopper = EarlyStopper(PowerForecaster(), HORIZON)
    with left_alone():
        good = lightning_run(lightning, lightning_callback(stopper, monitor="val_acc", run="good"), 0.9, tmp_path)
        callback = lightning_callback(stopper, monitor="val_acc", run="bad")
        bad = lightning_run(lightning, callback, 0.5, tmp_path)
        bad.save_checkpoint(tmp_path / "bad.ckpt")
    assert (good.current_epoch, stopper.runs) == (HORIZON, {"good": "finished", "bad": "stopped"})
    assert 4 <= bad.current_epoch < HORIZON and callback.decision.stop
    fresh = EarlyStopper(PowerForecaster(), HORIZON)
    lightning_callback(fresh, monitor="val_acc", run="bad").load_state_dict(callback.state_dict())
    assert fresh.runs == stopper.runs
    with left_alone(), pytest.raises(ConfigError, match=r"nothing is logged as 'val_ac'.*\n.*val_acc"):
        lightning_run(lightning, lightning_callback(stopper, monitor="val_ac", run="c"), 0.5, tmp_path)


# Hugging Face ------------------------------------------------------------------------------------------------------


def test_hugging_face_trainer_stops_a_run(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)

        def forward(self, x, labels):
            out = self.layer(x)
            return {"loss": (out - labels).square().mean(), "logits": out}

    data = [{"x": torch.ones(2), "labels": torch.ones(1)} for _ in range(4)]
    stopper = EarlyStopper(PowerForecaster(), HORIZON)

    def trained(best, callback, **settings):
        trainer = transformers.Trainer(
            Model(),
            transformers.TrainingArguments(
                str(tmp_path), num_train_epochs=HORIZON, per_device_train_batch_size=2, use_cpu=True, report_to=[],
                save_strategy="no", logging_strategy="no", disable_tqdm=True, **settings,
            ),
            train_dataset=data, eval_dataset=data, callbacks=[callback],
            compute_metrics=lambda _: {"accuracy": accuracy(best, trainer.state.global_step / 2)},
        )  # fmt: skip
        trainer.train()
        return trainer.state

    with left_alone():
        each = {"eval_strategy": "epoch"}
        trained(0.9, transformers_callback(stopper, metric="accuracy", run="good"), **each)
        callback = transformers_callback(stopper, metric="eval_accuracy", run="bad")
        state = trained(0.5, callback, **each)
        assert stopper.runs == {"good": "finished", "bad": "stopped"}
        assert 4 <= state.epoch < HORIZON and callback.decision.epoch == state.epoch
        steps = EarlyStopper(PowerForecaster(), 2 * HORIZON)
        by_step = transformers_callback(steps, metric="accuracy", run="by step")
        trained(0.9, by_step, eval_strategy="steps", eval_steps=10)
        np.testing.assert_array_equal(steps.curve("by step").epochs, [10, 20, 30, 40])
        with pytest.raises(ConfigError, match="no 'eval_acuracy'"):
            trained(0.9, transformers_callback(stopper, metric="acuracy", run="c"), **each)


# Ray Tune ----------------------------------------------------------------------------------------------------------


def test_ray_tune_scheduler_keeps_its_state_and_refuses_another_metric(tmp_path):
    pytest.importorskip("ray.tune")
    with left_alone():
        stopper = EarlyStopper(PowerForecaster(), HORIZON)
        scheduler = tune_scheduler(stopper, metric="acc")
        assert scheduler.metric == "acc"
        assert scheduler.set_search_properties(None, None) and scheduler.set_search_properties("acc", "max")
        with pytest.raises(ConfigError, match="minimize"):
            scheduler.set_search_properties("acc", "min")
        stopper.record("a", 1, 0.5)
        scheduler.save(str(tmp_path / "state"))
        fresh = EarlyStopper(PowerForecaster(), HORIZON)
        tune_scheduler(fresh, metric="acc").restore(str(tmp_path / "state"))
    assert fresh.state_dict() == stopper.state_dict()


TUNE = """
from curve_stand_in import PowerForecaster
from ray import init, tune
from foreknow.tasks.lc_pfn.adapters import tune_scheduler
from foreknow.tasks.lc_pfn.stopping import EarlyStopper

def train(config):
    for epoch in range(1, 21):
        tune.report({"acc": config["best"] - 0.3 / epoch})

init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
stopper = EarlyStopper(PowerForecaster(), 20)
tuner = tune.Tuner(
    train,
    param_space={"best": tune.grid_search([0.9, 0.5, 0.92, 0.45])},
    tune_config=tune.TuneConfig(scheduler=tune_scheduler(stopper, metric="acc"), max_concurrent_trials=1),
    run_config=tune.RunConfig(storage_path=FOLDER, verbose=0),
)
found = tuner.fit()
assert not found.errors, found.errors
epochs = {result.config["best"]: result.metrics["training_iteration"] for result in found}
assert epochs[0.9] == epochs[0.92] == 20, epochs
assert 4 <= epochs[0.5] < 20 and 4 <= epochs[0.45] < 20, epochs
assert sorted(stopper.runs.values()) == ["finished", "finished", "stopped", "stopped"], stopper.runs
"""


@pytest.mark.timeout(240)
def test_ray_tune_stops_trials(tmp_path):
    """In a process of its own, for Ray needs sockets."""
    pytest.importorskip("ray.tune")
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    result = subprocess.run(
        [sys.executable, "-c", TUNE.replace("FOLDER", repr(str(tmp_path)))],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": path, "RAY_AIR_NEW_OUTPUT": "0"},
        capture_output=True, text=True, timeout=220,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]


# The page ----------------------------------------------------------------------------------------------------------

PAGE = Path(__file__).resolve().parents[2] / "docs" / "early-stopping.md"
SNIPPETS = re.findall(r"^```py\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.M | re.S)


@pytest.mark.parametrize("library", ["lightning", "transformers"])
def test_snippets_of_the_page_stop_the_second_run(library, tmp_path, monkeypatch):
    pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    (code,) = [code for code in SNIPPETS if f"{library}_callback" in code]
    scope = {"__name__": "snippet"}
    with left_alone():
        exec(compile(code, "snippet", "exec"), scope)
    assert scope["stopper"].runs == {"first": "finished", "second": "stopped"}
