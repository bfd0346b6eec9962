"""Sequential inference over a network's weights: the posterior of one task as the prior of the next, by HMC.

p(w | D_1..t) is proportional to p(D_t | w) p(w | D_1..t-1), the second factor a density fitted to draws. Beside it
stand the arms that tell what failed: all data at once, a prior that is reset, variational inference, fine-tuning.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from foreknow.common.errors import ConfigError
from foreknow.common.progress import Reporter
from foreknow.common.rng import torch_stream
from foreknow.common.validate import check_int, check_option, check_real
from foreknow.functions.sequential_cl.densities import FittedDensity, MixtureDensity, RealNVP
from foreknow.functions.sequential_cl.streams import Task, as_tasks
from foreknow.functions.sequential_cl.variational import fit_normal
from foreknow.nn.bayes import (
    Bernoulli,
    FlatNetwork,
    GaussianLayers,
    Likelihood,
    Softmax,
    effective_sample_size,
    find_modes,
    hmc,
    split_rhat,
)

ARMS = ("sequential", "joint", "reset", "fine-tune", "vcl")
DENSITIES = ("gmm", "flow")


@dataclass(frozen=True)
class HMCSettings:
    """Of one task's sampling.

    Args:
        n_chains: chains.
        n_samples: draws kept of each.
        n_burn: proposals before.
        n_leapfrog: most steps of a proposal.
        step: first step size.
        thin: keep every so many.
        adapt_mass: masses from the variances seen in burn-in.
    """

    n_chains: int = 4
    n_samples: int = 500
    n_burn: int = 300
    n_leapfrog: int = 20
    step: float = 0.01
    thin: int = 1
    adapt_mass: bool = True

    def __post_init__(self) -> None:
        for name in ("n_chains", "n_samples", "n_burn", "n_leapfrog", "thin"):
            check_int("HMCSettings", name, getattr(self, name), low=1)
        check_real("HMCSettings", "step", self.step, low=0, open_low=True)


PUBLISHED = HMCSettings(n_chains=10, n_samples=1000, n_burn=1000, n_leapfrog=20, step=0.001, thin=5)


@dataclass
class TaskReport:
    """What was seen at one task.

    Args:
        accuracy: on every task's test rows, shape (n_tasks,).
        rhat, ess: of function values at test rows (medians), NaN for arms without chains.
        accept: mean acceptance.
        density_ll: held-out log density of the fitted density, NaN where none was fitted.
        n_components: of a mixture.
    """

    accuracy: NDArray[np.float64]
    rhat: float = math.nan
    ess: float = math.nan
    accept: float = math.nan
    density_ll: float = math.nan
    n_components: int = 0


@dataclass
class SequentialBayes:
    """The experiment on one stream of tasks.

    Args:
        network: of one output (two classes) or one a class.
        arm: one of `ARMS`.
        density: "gmm" or "flow", of the arm "sequential".
        sampler: settings of HMC.
        tau: precision of the first prior, N(0, 1/tau) for every weight.
        density_options: passed to the density, for instance {"n_components": (1, 5)}.
        n_steps: of Adam, for "fine-tune" and "vcl".
        random_state: seed.
    """

    network: nn.Module
    arm: str = "sequential"
    density: str = "gmm"
    sampler: HMCSettings = field(default_factory=HMCSettings)
    tau: float = 10.0
    density_options: dict[str, Any] = field(default_factory=dict)
    n_steps: int = 800
    random_state: int = 0

    def run(
        self, tasks: Sequence[Task], test: Sequence[Task] | None = None, *, reporter: Reporter | None = None
    ) -> SequentialBayes:
        """Go through the tasks; `report()` and `accuracy_matrix_` hold what was found.

        Args:
            tasks: rows and class codes of each.
            test: rows that accuracy is measured on, task by task; by default the training rows.
            reporter: told after every task.
        """
        check_option("SequentialBayes", "arm", self.arm, ARMS)
        check_option("SequentialBayes", "density", self.density, DENSITIES)
        check_real("SequentialBayes", "tau", self.tau, low=0, open_low=True)
        check_int("SequentialBayes", "n_steps", self.n_steps, low=1)
        train = as_tasks(tasks)
        held = train if test is None else as_tasks(test)
        flat = FlatNetwork(self.network)
        n_outputs = int(flat(flat.flatten()[None], _rows(train[0][0][:1])).shape[-1])
        n_classes = 1 + max(int(y.max()) for _, y in train)
        if n_classes > max(n_outputs, 2):
            raise ConfigError(f"SequentialBayes: the tasks have {n_classes} classes, the network {n_outputs} outputs.")
        likelihood: Likelihood = Bernoulli() if n_outputs == 1 else Softmax(n_outputs)
        self.reports_: list[TaskReport] = []
        run = _Run(
            self, flat, likelihood, held, torch_stream(self.random_state, "sequential-cl", self.arm, self.density)
        )
        for number, (X, y) in enumerate(train):
            rows, codes = _rows(X), torch.as_tensor(y, dtype=torch.float32)
            if self.arm == "joint":
                rows = torch.cat([_rows(x) for x, _ in train[: number + 1]])
                codes = torch.cat([torch.as_tensor(c, dtype=torch.float32) for _, c in train[: number + 1]])
            self.reports_.append(run.task(number, rows, codes))
            if reporter is not None:
                reporter.advance(number + 1, f"{self.arm}, task {number + 1}")
        self.accuracy_matrix_ = np.stack([report.accuracy for report in self.reports_])
        return self

    def report(self) -> list[dict[str, Any]]:
        """R-hat and ESS of function values, acceptance, held-out density and accuracies after every task."""
        return [
            {"task": number + 1, **vars(report), "accuracy": report.accuracy.tolist()}
            for number, report in enumerate(self.reports_)
        ]


class _Run:
    """What one arm carries from task to task."""

    def __init__(
        self,
        experiment: SequentialBayes,
        network: FlatNetwork,
        likelihood: Likelihood,
        held: list[Task],
        generator: Generator,
    ) -> None:
        self.experiment, self.network, self.likelihood = experiment, network, likelihood
        self.held, self.generator = held, generator
        self.first = GaussianLayers(network, sd=experiment.tau**-0.5, fan_in=False).requires_grad_(False)
        self.density: FittedDensity | None = None
        self.modes: Tensor | None = None
        self.belief: tuple[Tensor, Tensor] | None = None

    def task(self, number: int, x: Tensor, y: Tensor) -> TaskReport:
        arm = self.experiment.arm
        if arm == "fine-tune":
            return self._fine_tune(x, y)
        if arm == "vcl":
            return self._vcl(x, y)
        return self._sample(x, y, carry=arm == "sequential")

    def _sample(self, x: Tensor, y: Tensor, *, carry: bool) -> TaskReport:
        settings, prior = self.experiment.sampler, self.density
        if prior is None:
            start = GaussianLayers(self.network, sd=1.0).draw(settings.n_chains, self.generator).detach()
        else:
            start = prior.sample(settings.n_chains, self.generator)

        def log_prob(z: Tensor) -> Tensor:
            before = self.first.log_prob(z) if prior is None else prior.log_prob(z)
            return self.likelihood.log_prob(self.network(z, x), y).sum(-1) + before

        found = hmc(
            log_prob, start, n_samples=settings.n_samples, n_burn=settings.n_burn, n_leapfrog=settings.n_leapfrog,
            step=settings.step, thin=settings.thin, adapt_mass=settings.adapt_mass, generator=self.generator,
        )  # fmt: skip
        draws = found.samples.reshape(-1, self.network.n_weights)
        report = TaskReport(self._accuracy(draws), accept=float(found.accept.mean()))
        with torch.no_grad():
            rows = torch.cat([_rows(X[:20]) for X, _ in self.held])
            values = torch.stack([self.network(chain, rows)[..., -1] for chain in found.samples])
        if values.shape[0] > 1 and values.shape[1] >= 4:
            report.rhat = float(split_rhat(values, rank=True).median())
            report.ess = float(effective_sample_size(values, rank=True).median())
        if carry:
            options = {"random_state": self.experiment.random_state, **self.experiment.density_options}
            if self.experiment.density == "gmm":
                fitted = MixtureDensity(draws, generator=self.generator, **options)
                self.density, report.n_components = fitted, fitted.n_components
            else:
                self.density = RealNVP(draws, generator=self.generator, **options)
            report.density_ll = self.density.held_out
        return report

    def _fine_tune(self, x: Tensor, y: Tensor) -> TaskReport:
        """The last task's weights are where the next begins; nothing else is carried."""
        if self.modes is None:
            self.modes = (
                GaussianLayers(self.network, sd=1.0).draw(self.experiment.sampler.n_chains, self.generator).detach()
            )
        self.modes = find_modes(
            self.network, self.likelihood, x, y, start=self.modes, prior=self.first, n_steps=self.experiment.n_steps,
            generator=self.generator,
        )  # fmt: skip
        return TaskReport(self._accuracy(self.modes))

    def _vcl(self, x: Tensor, y: Tensor) -> TaskReport:
        size = self.network.n_weights
        if self.belief is None:
            before = torch.zeros(size), torch.full((size,), self.experiment.tau**-0.5)
            mean = GaussianLayers(self.network, sd=1.0).draw(1, self.generator).detach()[0]
        else:
            before, mean = self.belief, self.belief[0]
        self.belief = fit_normal(
            self.network, self.likelihood, x, y, before=before, mean=mean, n_steps=self.experiment.n_steps,
            generator=self.generator,
        )  # fmt: skip
        draws = self.belief[0] + self.belief[1] * torch.randn(100, size, generator=self.generator)
        return TaskReport(self._accuracy(draws))

    def _accuracy(self, weights: Tensor) -> NDArray[np.float64]:
        """Share of test rows of every task that the mean predictive probability gets right."""
        thinned = weights[:: max(1, len(weights) // 200)]
        found = []
        with torch.no_grad():
            for X, y in self.held:
                outputs = self.network(thinned, _rows(X))
                if outputs.shape[-1] == 1:
                    chosen = (torch.sigmoid(outputs[..., 0]).mean(0) > 0.5).long()
                else:
                    chosen = outputs.softmax(-1).mean(0).argmax(-1)
                found.append(float((chosen.numpy() == y).mean()))
        return np.array(found)


def _rows(X: NDArray[np.float64]) -> Tensor:
    return torch.as_tensor(X, dtype=torch.float32)
