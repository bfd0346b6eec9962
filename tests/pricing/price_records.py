"""Prices of made-up but likely numbers, for tests of how they are shown."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from foreknow.pricing.records import ArmSummary, Calibration, Comparison, Curve, Estimate, Loss, Price

SIZES = (40, 80, 160, 320, 640)
ROLE_OF = {
    "on": "on",
    "off": "off",
    "shuffled labels": "wrong",
    "gradient boosting": "plain",
    "nearest neighbours": "plain",
}
LEVEL = {"on": 1.0, "off": 1.9, "shuffled labels": 2.3, "gradient boosting": 1.25, "nearest neighbours": 1.7}


def make_estimate(value: float, spread: float = math.nan, **changes: Any) -> Estimate:
    """An estimate with the interval value - spread to value + spread, from eight seeds."""
    return dataclasses.replace(Estimate(value, value - spread, value + spread, n_units=8), **changes)


def make_curve(level: float = 1.0, sizes: tuple[int, ...] = SIZES, seed: int = 0) -> Curve:
    """A loss that falls with the size as level * size^-0.3, and eight units around it."""
    rng = np.random.default_rng(seed)
    mean = level * np.asarray(sizes, dtype=float) ** -0.3
    units = mean * np.exp(0.06 * rng.normal(size=(8, len(sizes))))
    middle, half = units.mean(axis=0), 2.36 * units.std(axis=0, ddof=1) / np.sqrt(8)
    rows = tuple(tuple(float(v) for v in row) for row in units)
    return Curve(tuple(middle.tolist()), tuple((middle - half).tolist()), tuple((middle + half).tolist()), rows)


def make_calibration(temperature: float = 1.6) -> Calibration:
    """Overconfident before, nearly right after."""
    places = np.linspace(0.55, 0.95, 5)
    share = np.array([0.08, 0.12, 0.15, 0.25, 0.4])
    bins = [
        tuple((float(x), float(x - gap * (x - 0.5)), float(s)) for x, s in zip(places, share, strict=True))
        for gap in (0.1 * temperature, 0.02)
    ]
    before, after = {"log_loss": 0.24, "ece_15": 0.08, "brier": 0.11}, {"log_loss": 0.21, "ece_15": 0.02, "brier": 0.1}
    return Calibration(640, temperature, before, after, *bins)


def make_arm(
    name: str = "on", role: str | None = None, *, sizes: tuple[int, ...] = SIZES, **changes: Any
) -> ArmSummary:
    """One arm with two measures at each size."""
    role = role or ROLE_OF[name]
    level, seed = LEVEL.get(name, 1.5), len(name)
    loss = make_curve(level, sizes, seed)
    arm = ArmSummary(
        name=name,
        role=role,
        what=f"What {name} is, in one sentence.",
        settings={"steps": 400, "rate": 3e-4},
        curves={"log_loss": loss, "brier": make_curve(0.4 * level, sizes, seed + 1)},
        seconds=tuple(0.02 * level * size for size in sizes),
        peak_mb=tuple(120.0 + 0.1 * size for size in sizes),
        calibration=make_calibration(1.6 if role == "on" else 2.4) if role in ("on", "off") else None,
    )
    return dataclasses.replace(arm, **changes)


def make_comparison(arm: str = "off", role: str | None = None, **changes: Any) -> Comparison:
    """On is better by what the price says; every number has an interval."""
    comparison = Comparison(
        arm=arm,
        role=role or ROLE_OF[arm],
        difference=make_estimate(-0.124, 0.031, equivalent=False, margin=0.01),
        sample_ratio=make_estimate(6.2, low=4.1, high=9.04),
        code_bits=make_estimate(312.4, 48.0, rung="prequential"),
        matched_bits=make_estimate(11.6, 1.3, rung="parametric", extrapolated=True),
        time_ratio=make_estimate(1.31, 0.08),
        memory_ratio=make_estimate(1.05, 0.01),
        verdict="held",
    )
    return dataclasses.replace(comparison, **changes)


def make_price(**changes: Any) -> Price:
    """A whole price: five arms, five sizes, eight of ten seeds, one loss; fields can be changed by name."""
    sizes = changes.get("sizes", SIZES)
    price = Price(
        study="lc-pfn",
        title="Learning curves foreseen by a network fitted to a prior",
        task="classification",
        measure="log_loss",
        unit="nats",
        unit_of_data="rows",
        sources=({"name": "breast cancer", "n_rows": 569, "hash": "9f" * 32, "licence": "CC BY 4.0"},),
        sizes=sizes,
        seeds=tuple(range(8)),
        n_planned=10,
        arms=tuple(make_arm(name, sizes=sizes) for name in ROLE_OF),
        comparisons=(
            make_comparison("off"),
            make_comparison("shuffled labels", sample_ratio=make_estimate(16.0, sign=">=", note="never reached")),
            make_comparison(
                "gradient boosting",
                difference=make_estimate(0.002, 0.004, equivalent=True, margin=0.01),
                sample_ratio=make_estimate(0.9, 0.2),
                code_bits=make_estimate(-21.0, 9.0, rung="prequential"),
                matched_bits=make_estimate(-1.2, 0.4, rung="counting"),
                time_ratio=make_estimate(14.0, 2.0),
                verdict="open",
            ),
            make_comparison("nearest neighbours", matched_bits=make_estimate(math.nan, note="no draws were kept")),
        ),
        losses=(Loss("gradient boosting", 640, "brier", make_estimate(0.013, 0.006)),),
        n_labels=640,
        seconds=754.2,
        command="foreknow price lc-pfn --data breast-cancer --seeds 10 --store prices.sqlite",
        environment={"machine": "Linux x86_64, 2 cores", "python": "3.12.3", "packages": {"torch": "2.13.0"}},
        date="2026-11-23T18:59:58+00:00",
        notes=("Stopped when the time of the budget was used up.",),
    )  # fmt: skip
    return dataclasses.replace(price, **changes)
