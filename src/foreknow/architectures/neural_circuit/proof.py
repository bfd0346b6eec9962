"""The small proof of `neural-circuit`: swimming with 6 links, returns of at most 1000.

Every arm gets as many episodes; its return is measured before, at a third, at two thirds and at the end of training, on
starts that no training begins from. Trained weights are then frozen and put into bodies of 4, 8 and 12 links. Without
signs the four first weights are +1 or -1 with equal probability; all 16 cases are run once each, so the mean of that
arm does not hang on which of them a few seeds happen to draw.

The circuit and the network are also trained by PPO, with fewer episodes and seeds, since a step of it costs several
times as much.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.integrate import trapezoid

from foreknow.architectures.neural_circuit.baselines import RandomTorque, SineWave
from foreknow.architectures.neural_circuit.policy import CircuitPolicy, Policy
from foreknow.architectures.neural_circuit.ppo import train_with_ppo
from foreknow.architectures.neural_circuit.prior import CircuitPrior, PlainNetwork
from foreknow.architectures.neural_circuit.swimmer import SwimmerWorld
from foreknow.architectures.neural_circuit.training import returns, set_weights, test_starts, train_with_es
from foreknow.common.deps import require
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
BY_PPO = {"circuit by PPO": "circuit", "network by PPO": "network"}
"""Arms trained by PPO -> the arm whose policy they start with."""
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
        ppo_episodes: of training by PPO.
        ppo_seeds: trainings by PPO, at most.
    """

    episodes: int = 60
    n_steps: int = 1000
    n_test: int = 3
    settings: ESSettings = field(default_factory=lambda: ESSettings(10, 0.1, 0.1))
    ppo_episodes: int = 10
    ppo_seeds: int = 3

    @property
    def times(self) -> tuple[int, ...]:
        """Episodes after which the return is measured: none, a third, two thirds, all; whole generations."""
        generations = self.episodes // self.settings.population
        return tuple(sorted({round(part * generations / 3) * self.settings.population for part in range(4)}))


SIZES = {
    "quick": Sizes(6, 40, 1, ESSettings(2, 0.1, 0.1), 1, 2),
    "small": Sizes(),
    "paper": Sizes(5000, 1000, 10, ESSettings(8, 0.02, 0.01), 5000, 10),
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
    require("stable_baselines3", "The proof's training by PPO")
    sizes = SIZES[preset]
    worlds = {links: SwimmerWorld(links, n_steps=sizes.n_steps) for links in (LINKS, *BODIES)}
    runs = [(arm, seed) for seed in range(seeds) for arm in (*ARMS, *PLAIN) if arm != "unsigned"]
    runs += [("unsigned", case) for case in range(CASES)]
    runs += [(arm, seed) for seed in range(min(seeds, sizes.ppo_seeds)) for arm in BY_PPO]
    reporter = Reporter(progress, len(runs))
    records: list[Record] = []
    with Stopwatch() as watch:
        for arm, seed in runs:
            run = measure_ppo if arm in BY_PPO else measure
            records.append(run(arm, seed, sizes, worlds))
            reporter.advance(len(records), f"{arm}, seed {seed}: {records[-1]['returns'][-1]:.0f}")
    return Evidence(
        slug="neural-circuit",
        claims=claims(records),
        arms=tuple(records),
        command=f"foreknow prove neural-circuit --preset {preset} --seeds {seeds}",
        seconds=watch.seconds,
        settings={"preset": preset, "seeds": seeds, "episodes": sizes.episodes, "n_steps": sizes.n_steps,
                  "n_test": sizes.n_test, "links": LINKS, "search": vars(sizes.settings),
                  "ppo_episodes": sizes.ppo_episodes, "ppo_seeds": min(seeds, sizes.ppo_seeds)},
        notes=notes(records),
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
            policy = _policy(arm, seed, world)
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


def measure_ppo(arm: str, seed: int, sizes: Sizes, worlds: Mapping[int, SwimmerWorld]) -> Record:
    """Train one arm of `BY_PPO` once, from the weights that its policy has in the other trainings of this seed."""
    world, starts = worlds[LINKS], test_starts(seed, sizes.n_test)
    with Stopwatch() as watch:
        policy = _policy(BY_PPO[arm], seed, world)
        found = [_mean(world, policy.act(), starts)]
        train_with_ppo(policy, world, sizes.ppo_episodes, seed=seed_of(seed, "proof"), note=lambda done, latest: None)
        found.append(_mean(world, policy.act(), starts))
    return {
        "arm": arm,
        "seed": seed,
        "weights": sum(part.numel() for part in policy.parameters()),
        "episodes": [0, sizes.ppo_episodes],
        "returns": found,
        "seconds": watch.seconds,
    }


def _policy(arm: str, seed: int, world: SwimmerWorld) -> Policy:
    prior, generator = ARMS[arm], torch_stream(seed, "neural-circuit", "proof", arm)
    if isinstance(prior, CircuitPrior):
        return prior.policy(world.n_actions, generator=generator)
    return prior.policy(world.n_observations, world.n_actions, generator=generator)


def claims(records: Sequence[Record]) -> tuple[Claim, ...]:
    """What the paper says, as numbers with bounds."""
    curve = {arm: _over(records, arm, "returns") for arm in (*ARMS, *PLAIN)}
    area = {arm: _over(records, arm, "area") for arm in curve}
    untrained = {links: _moved(records, "circuit", "untrained_on_links", links) for links in BODIES}
    moved = {arm: np.mean([_moved(records, arm, "on_links", links) for links in BODIES], axis=0)
             for arm in ("circuit", "tuned sine")}  # fmt: skip
    ppo = {arm: _over(records, arm, "returns") for arm in BY_PPO}
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
        _claim("return after training by PPO, circuit minus network",
               ppo["circuit by PPO"][:, -1] - ppo["network by PPO"][:, -1], low=500),
        _claim("return of the circuit, after minus before training by PPO",
               ppo["circuit by PPO"][:, -1] - ppo["circuit by PPO"][:, 0], low=0),
    )  # fmt: skip


def notes(records: Sequence[Record]) -> tuple[str, ...]:
    """What each arm earned before and after training, and where the circuit and the sine wave stand on other bodies."""
    lines = []
    for arm in (*ARMS, *PLAIN, *BY_PPO):
        before, *_, after = _over(records, arm, "returns").mean(axis=0)
        spent = next(record["episodes"][-1] for record in records if record["arm"] == arm)
        lines.append(f"{arm}: mean return {before:.0f} before training, {after:.0f} after {spent} episodes.")
    for links in BODIES:
        untrained = _moved(records, "circuit", "untrained_on_links", links).mean()
        trained, sine = (_moved(records, arm, "on_links", links).mean() for arm in ("circuit", "tuned sine"))
        ahead = "circuit" if trained > sine else "tuned sine"
        lines.append(f"{links} links, weights frozen: circuit {untrained:.0f} untrained, {trained:.0f} trained, "
                     f"tuned sine {sine:.0f}; the {ahead} is ahead after training.")  # fmt: skip
    return tuple(lines)


def _claim(name: str, values: Array, *, low: float | None = None, high: float | None = None, note: str = "") -> Claim:
    interval = paired_interval(values, rng=numpy_stream(0, "neural-circuit", name))
    return Claim(name, float(values.mean()), low, high, (interval.low, interval.high), note=note)


def _over(records: Sequence[Record], arm: str, key: str) -> Array:
    return np.array([record[key] for record in records if record["arm"] == arm])


def _moved(records: Sequence[Record], arm: str, key: str, links: int) -> Array:
    return np.array([record[key][str(links)] for record in records if record["arm"] == arm])


def _mean(world: SwimmerWorld, act: Any, starts: Sequence[int]) -> float:
    return float(returns(world, act, starts).mean())
