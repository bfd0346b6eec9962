"""A catalogue that holds one small system only, and the command line run in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import pytest
import torch

from foreknow.cli.main import main
from foreknow.core import records, registry, system
from foreknow.core.card import Card
from foreknow.core.evidence import Claim, Evidence
from foreknow.core.prior import Simulator

CARD = Card(
    slug="toy-lines",
    title="Straight Lines [in Small]",
    authors=("Doe, Jane", "Roe, Richard"),
    year=1999,
    venue="Journal of Tests",
    room="tasks",
    prior="Every function is a straight line.",
    control="off() shuffles the targets.",
    inputs="points",
    outputs="a line",
    cost="seconds",
    tier="study",
    bibtex="@article{doe1999,\n  title = {Straight Lines},\n}",
    extras=("bench",),
    deviations=("None that is known.",),
    limits=("Never on curves.", "Nor on circles."),
)


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


class Run(NamedTuple):
    """What the toy system was asked; a test puts an error into `error` to have it raised in the middle of the work."""

    calls: list[dict[str, object]]
    error: list[BaseException]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """`cli("list", "--json")` -> exit code, stdout, stderr."""

    def run(*words: object) -> Outcome:
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        captured = capsys.readouterr()
        return Outcome(int(stop.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Run:
    """A catalogue with `toy-lines` alone: a prior with defaults, one without, and a system."""
    registry.catalogue()  # a system that is first imported later would register with this one, and be lost
    monkeypatch.setattr(registry, "_ENTRIES", {})
    monkeypatch.setattr(registry, "_FAILURES", {})
    monkeypatch.setattr(registry, "_walked", True)
    monkeypatch.setattr(records, "_RECORDS", dict(records._RECORDS))
    monkeypatch.setattr(system, "_CLASSES", dict(system._CLASSES))
    asked = Run([], [])

    @registry.register(CARD)
    @dataclass(frozen=True)
    class LinePrior(Simulator):
        n_features: int = 1
        slope: float = 1.0
        view: ClassVar[str] = "curves"

        def _draw(self, n_tasks, n_rows, *, generator, device, dtype):
            x = torch.rand(n_tasks, n_rows, self.n_features, generator=generator)
            return x, self.slope * x.sum(-1) + torch.randn(n_tasks, 1, generator=generator), {}

    @registry.register(CARD)
    @dataclass(frozen=True)
    class TwoLinesPrior(LinePrior):
        other: float = 0.0
        n_features: int = 2
        view: ClassVar[str] = "table"

        def __init__(self, other: float) -> None:
            object.__setattr__(self, "other", other)

        @classmethod
        def examples(cls):
            return [cls(2.0)]

    @registry.register(CARD)
    class Lines(system.System):
        def _paper_prior(self):
            return LinePrior(slope=1.5)

        def _fit(self, X, y):
            raise NotImplementedError

        @classmethod
        def prove(cls, *, preset="small", seeds=3, progress=None):
            asked.calls.append({"preset": preset, "seeds": seeds})
            progress(system_progress(0.5))
            for error in asked.error:
                raise error
            arms = tuple({"arm": arm, "n": 4, "seed": s, "nll": 1.0 + s} for arm in ("on", "off") for s in range(seeds))
            claims = (
                Claim("lines are straight", 0.0, high=0.1, interval=(-0.01, 0.01), unit="nat"),
                Claim("circles are straight", float("nan"), high=0.1, note="They are round."),
            )
            return Evidence(
                "toy-lines", claims, arms, "foreknow prove toy-lines", 65.0, {"preset": preset, "seeds": seeds}
            )

        @classmethod
        def pretrain_shipped(cls, name=None, **options):
            asked.calls.append({"name": name, **options})
            options["progress"](system_progress(0.5))
            (options["out"] / "state.bin").write_bytes(b"0")
            for error in asked.error:
                raise error
            return {"steps": 7, "loss": 0.25, "weights": str(options["out"] / "w"), "state": "s", "log": "l"}

    return asked


def system_progress(fraction: float):
    from foreknow.common.progress import Progress

    return Progress(fraction, 1.0, 3.0, "half way")
