"""The small proof of `neural-circuit`: swimming with 6 links, returns of at most 1000.

Every arm gets as many episodes; its return is measured before, at a third, at two thirds and at the end of training, on
starts that no training begins from. Trained weights are then frozen and put into bodies of 4, 8 and 12 links. Without
signs the four first weights are +1 or -1 with equal probability; all 16 cases are run once each, so the mean of that
arm does not hang on which of them a few seeds happen to draw.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.integrate import trapezoid

from foreknow.architectures.neural_circuit.baselines import RandomTorque, SineWave
from foreknow.architectures.neural_circuit.policy import CircuitPolicy
from foreknow.architectures.neural_circuit.prior import CircuitPrior, PlainNetwork
from foreknow.architectures.neural_circuit.swimmer import SwimmerWorld
from foreknow.architectures.neural_circuit.training import returns, set_weights, test_starts, train_with_es
from foreknow.common.progress import ProgressCallback, Reporter
from foreknow.common.rng import numpy_stream, seed_of, torch_stream
from foreknow.common.timing import Stopwatch
from foreknow.common.validate import check_int, check_option
from foreknow.core.evidence import Claim, Evidence
from foreknow.core.measures import paired_interval
from foreknow.core.system import PRESETS
from foreknow.core.world import Array
from foreknow.train.es import ESSettings

ARMS: dict[str, CircuitPrior | PlainNetwork] = {
    "circuit": CircuitPrior(),
    "unsigned": CircuitPrior(sign=False),
    "unshared": CircuitPrior(sharing=False),
    "uniform init": CircuitPrior(init="uniform"),
    "no oscillator": CircuitPrior(oscillator=False),
    "no proprioception": CircuitPrior(proprioception=False),
    "permuted": CircuitPrior(wiring="permuted"),
    "network": PlainNetwork(),
}
CASES = 16
"""First weights of the circuit without signs."""
PLAIN = ("tuned sine", "random torque")
LINKS = 6
BODIES = {4: 342.0, 8: 903.0, 12: 905.0}
"""Links of the bodies of the transfer -> return of the untrained circuit as it was measured before."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """How much a preset spends.

    Args:
        episodes: of training.
        n_steps: of an episode.
        n_test: starts of a test.
        settings: of the evolution strategy.
    """

    episodes: int = 60
    n_steps: int = 1000
    n_test: int = 3
    settings: ESSettings = field(default_factory=lambda: ESSettings(10, 0.1, 0.1))

    @property
    def times(self) -> tuple[int, ...]:
        """Episodes after which the return is measured: none, a third, two thirds, all; whole generations."""
        generations = self.episodes // self.settings.population
        return tuple(sorted({round(part * generations / 3) * self.settings.population for part in range(4)}))


SIZES = {
    "quick": Sizes(6, 40, 1, ESSettings(2, 0.1, 0.1)),
    "small": Sizes(),
    "paper": Sizes(5000, 1000, 10, ESSettings(8, 0.02, 0.01)),
}


def prove(*, preset: str = "small", seeds: int = 5, progress: ProgressCallback | None = None) -> Evidence:
    """Measure the claims of the small proof; see the module.

    Args:
        preset: one of `PRESETS`.
        seeds: trainings of each arm; at least 2.
        progress: told of finished trainings.
    """
    check_option("prove neural-circuit", "preset", preset, PRESETS)
    check_int("prove neural-circuit", "seeds", seeds, low=2)
    sizes = SIZES[preset]
    worlds = {links: SwimmerWorld(links, n_steps=sizes.n_steps) for links in (LINKS, *BODIES)}
    runs = [(arm, seed) for seed in range(seeds) for arm in (*ARMS, *PLAIN) if arm != "unsigned"]
    runs += [("unsigned", case) for case in range(CASES)]
    reporter = Reporter(progress, len(runs))
    records: list[Record] = []
    with Stopwatch() as watch:
        for arm, seed in runs:
            records.append(measure(arm, seed, sizes, worlds))
            reporter.advance(len(records), f"{arm}, seed {seed}: {records[-1]['returns'][-1]:.0f}")
    return Evidence(
        slug="neural-circuit",
        claims=claims(records),
        arms=tuple(records),
        command=f"foreknow prove neural-circuit --preset {preset} --seeds {seeds}",
        seconds=watch.seconds,
        settings={"preset": preset, "seeds": seeds, "episodes": sizes.episodes, "n_steps": sizes.n_steps,
                  "n_test": sizes.n_test, "links": LINKS, "search": vars(sizes.settings)},
        notes=tuple(f"{arm}: mean return {_over(records, arm, 'returns')[:, 0].mean():.0f} before training, "
                    f"{_over(records, arm, 'returns')[:, -1].mean():.0f} after {sizes.episodes} episodes."
                    for arm in (*ARMS, *PLAIN)),
    )  # fmt: skip


def measure(arm: str, seed: int, sizes: Sizes, worlds: Mapping[int, SwimmerWorld]) -> Record:
    """Train one arm once, in the body with 6 links; returns at `sizes.times`, their area, and on the other bodies."""
    world, starts, times = worlds[LINKS], test_starts(seed, sizes.n_test), sizes.times
    others = {links: worlds[links] for links in BODIES}
    found: list[float] = []
    before, after = {}, {}
    n_weights = 0
    with Stopwatch() as watch:
        if arm in PLAIN:
            for time in times:
                plain: Any = SineWave(seed) if arm == "tuned sine" else RandomTorque(seed)
                found.append(_mean(world, plain.fit(world, episodes=time).act(), starts))
            n_weights = 2 if arm == "tuned sine" else 0
            for links, other in others.items():
                plain.n_joints_ = links - 1
                after[links] = _mean(other, plain.act(), starts)
        else:
            prior, generator = ARMS[arm], torch_stream(seed, "neural-circuit", "proof", arm)
            policy = (
                prior.policy(LINKS - 1, generator=generator)
                if isinstance(prior, CircuitPrior)
                else prior.policy(world.n_observations, world.n_actions, generator=generator)
            )
            if arm == "unsigned":
                set_weights(policy, np.array([1.0 if seed >> bit & 1 else -1.0 for bit in range(4)]))
            n_weights = sum(part.numel() for part in policy.parameters())
            fits_all = isinstance(policy, CircuitPolicy) and dict(policy.circuit.options)["sharing"]

            def on_others() -> dict[int, float]:
                if not fits_all or not isinstance(policy, CircuitPolicy):
                    return {}
                return {
                    links: _mean(other, policy.for_body(links - 1).act(), starts) for links, other in others.items()
                }

            def note(done: int, latest: float) -> None:
                if done in times:
                    found.append(_mean(world, policy.act(), starts))

            note(0, math.nan)
            before = on_others()
            train_with_es(policy, world, sizes.episodes, sizes.settings, seed=seed_of(seed, "proof"), note=note)
            after = on_others()
    return {
        "arm": arm,
        "seed": seed,
        "weights": n_weights,
        "episodes": list(times),
        "returns": found,
        "area": float(trapezoid(found, times) / times[-1]),
        "untrained_on_links": {str(links): value for links, value in before.items()},
        "on_links": {str(links): value for links, value in after.items()},
        "seconds": watch.seconds,
    }


def claims(records: Sequence[Record]) -> tuple[Claim, ...]:
    """What the paper says, as numbers with bounds."""
    curve = {arm: _over(records, arm, "returns") for arm in (*ARMS, *PLAIN)}
    area = {arm: _over(records, arm, "area") for arm in curve}
    untrained = {links: _moved(records, "circuit", "untrained_on_links", links) for links in BODIES}
    moved = {arm: np.mean([_moved(records, arm, "on_links", links) for links in BODIES], axis=0)
             for arm in ("circuit", "tuned sine")}  # fmt: skip
    return (
        _claim("return of the circuit before training", curve["circuit"][:, 0], low=792, high=806),
        _claim("return of the circuit after training", curve["circuit"][:, -1], low=850, high=950),
        _claim("return of the network after training", curve["network"][:, -1], high=300),
        Claim("return of the circuit without signs after training, mean over its 16 first weights",
              float(curve["unsigned"][:, -1].mean()), high=222),
        _claim("area under the curve, circuit minus network", area["circuit"] - area["network"], low=500),
        Claim("area under the curve, signs minus no signs",
              float(area["circuit"].mean() - area["unsigned"].mean()), low=0),
        _claim("return before training, constant minus uniform first weights",
               curve["circuit"][:, 0] - curve["uniform init"][:, 0], low=0),
        _claim("return after training, circuit minus sine wave tuned with as many episodes",
               curve["circuit"][:, -1] - curve["tuned sine"][:, -1], low=0),
        Claim("untrained circuit on 4, 8 and 12 links, largest difference from 342, 903 and 905",
              max(abs(float(untrained[links].mean()) - known) for links, known in BODIES.items()), high=15),
        _claim("trained circuit on 8 and 12 links, frozen",
               np.mean([_moved(records, "circuit", "on_links", links) for links in (8, 12)], axis=0), low=800),
        _claim("frozen on 4, 8 and 12 links, circuit minus tuned sine wave", moved["circuit"] - moved["tuned sine"],
               low=0),
    )  # fmt: skip


def _claim(name: str, values: Array, *, low: float | None = None, high: float | None = None, note: str = "") -> Claim:
    interval = paired_interval(values, rng=numpy_stream(0, "neural-circuit", name))
    return Claim(name, float(values.mean()), low, high, (interval.low, interval.high), note=note)


def _over(records: Sequence[Record], arm: str, key: str) -> Array:
    return np.array([record[key] for record in records if record["arm"] == arm])


def _moved(records: Sequence[Record], arm: str, key: str, links: int) -> Array:
    return np.array([record[key][str(links)] for record in records if record["arm"] == arm])


def _mean(world: SwimmerWorld, act: Any, starts: Sequence[int]) -> float:
    return float(returns(world, act, starts).mean())
