"""Print `requirements.lock`: exact pins of everything `make setup` installs, read from this environment.

The pins are the closure of the package's dependencies and of the extras below, so a stray package in the
environment stays out. What torch itself brings on a platform (its GPU libraries) is left to torch's own pins.
"""

from __future__ import annotations

import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

EXTRAS = (
    "train", "frames", "polars", "ray", "studies", "control", "rl", "text", "images", "onnx", "mcmc", "pde",
    "bayes", "bo", "stopping", "curves", "dev", "docs",
)  # fmt: skip
HEADER = """\
# Exact versions of what `make setup` installs: the core and the extras {extras}.
# Made by `make lock`; not edited by hand. Your own machine's index decides where the files come from.
"""
BROUGHT_BY_TORCH = ("nvidia-", "cuda-", "triton")


def project() -> dict[str, object]:
    """The `[project]` table of pyproject.toml."""
    root = Path(__file__).resolve().parents[1]
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def direct() -> list[Requirement]:
    """The requirements that the project names itself: the core and the locked extras."""
    table = project()
    lines = list(table["dependencies"]) + [line for extra in EXTRAS for line in table["optional-dependencies"][extra]]
    return [Requirement(line) for line in lines]


def pins() -> dict[str, str]:
    """Package -> version installed here, for the direct requirements and all they need in turn."""
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    queue = [(requirement, "") for requirement in direct()]
    while queue:
        requirement, extra = queue.pop()
        name = canonicalize_name(requirement.name)
        needed = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        if name.startswith(BROUGHT_BY_TORCH) or not needed:
            continue
        distribution = metadata.distribution(name)
        found[name] = Version(distribution.version).public
        for wanted in {"", *requirement.extras}:
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                queue += [(Requirement(line), wanted) for line in distribution.requires or ()]
    return dict(sorted(found.items()))


def lock() -> str:
    """The text of the lock file; a direct requirement keeps its platform marker."""
    markers = {canonicalize_name(requirement.name): requirement.marker for requirement in direct()}
    lines = [HEADER.format(extras=", ".join(EXTRAS))]
    for name, version in pins().items():
        marker = markers.get(name)
        lines.append(f"{name}=={version} ; {marker}\n" if marker else f"{name}=={version}\n")
    return "".join(lines)


if __name__ == "__main__":
    sys.stdout.write(lock())
