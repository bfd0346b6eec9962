"""`foreknow doctor`: what is installed here, what is broken, and what would run."""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Callable
from importlib import metadata
from typing import Any

import typer

from foreknow.cli.common import Json, emit, figure, say, show_table

CORE = (
    "torch",
    "numpy",
    "scipy",
    "scikit-learn",
    "safetensors",
    "narwhals",
    "jaxtyping",
    "typer",
    "rich",
    "matplotlib",
    "jinja2",
)


def doctor(json: Json = False) -> None:
    """Versions, optional parts, devices, memory, shipped networks, and what would run here. Exit code 1 if broken."""
    problems: list[str] = []
    record: dict[str, Any] = {
        name: _probe(name, look, problems)
        for name, look in (
            ("versions", lambda: _versions(problems)),
            ("extras", _extras),
            ("machine", _machine),
            ("devices", _devices),
            ("networks", lambda: _networks(problems)),
            ("systems", lambda: _systems(problems)),
        )
    }
    if not emit({**record, "problems": problems}, json):
        _show(record)
    for problem in problems:
        say(f"problem: {problem}", colour="red")
    if problems:
        raise typer.Exit(1)
    if not json:
        typer.echo("\nNothing is broken.")


def _probe(name: str, look: Callable[[], Any], problems: list[str]) -> Any:
    """What `look` finds, or None and a problem: one broken part must not hide the others."""
    try:
        return look()
    except Exception as error:  # noqa: BLE001 - whatever is broken is what this verb is for
        problems.append(f"{name} cannot be read: {type(error).__name__}: {error}")
        return None


def _versions(problems: list[str]) -> dict[str, str | None]:
    from foreknow._version import __version__

    found: dict[str, str | None] = {"foreknow": __version__, "python": platform.python_version()}
    for name in CORE:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
            problems.append(f"the package {name!r} is not installed; run: pip install {name}")
    return found


def _extras() -> list[dict[str, Any]]:
    from foreknow.common.deps import EXTRAS, available

    rows = []
    for extra, modules in EXTRAS.items():
        missing = [module for module in modules if not available(module)]
        rows.append(
            {
                "extra": extra,
                "installed": not missing,
                "missing": missing,
                "install": f"pip install 'foreknow[{extra}]'" if missing else None,
            }
        )
    return rows


def _machine() -> dict[str, Any]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"system": platform.platform(), "n_cores": cores, **_memory()}


def _memory() -> dict[str, float | None]:
    """Memory of this machine in GB (10^9 bytes): all, and what is free now; None where the system does not say."""
    found: dict[str, float] = {}
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            found = {line.split(":")[0]: float(line.split()[1]) * 1024 / 1e9 for line in file}
    except OSError:
        if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", ()):
            found = {"MemTotal": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9}
    return {"memory_gb": found.get("MemTotal"), "memory_free_gb": found.get("MemAvailable")}


def _devices() -> list[dict[str, Any]]:
    import torch

    from foreknow.common.device import has_fast_bf16

    names = {"cpu": platform.processor() or platform.machine()}
    memory: dict[str, float] = {}
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            names[f"cuda:{index}"] = torch.cuda.get_device_name(index)
            memory[f"cuda:{index}"] = torch.cuda.mem_get_info(index)[0] / 1e9
    return [
        {
            "device": device,
            "name": name,
            "memory_free_gb": memory.get(device),
            "fast_bf16": has_fast_bf16(torch.device(device)),
        }
        for device, name in names.items()
    ]


def _networks(problems: list[str]) -> list[dict[str, Any]]:
    from foreknow.common.errors import CheckpointError
    from foreknow.core.checkpoint import Checkpoint
    from foreknow.trained import shipped

    rows = []
    for name, path in shipped().items():
        try:
            Checkpoint.load(path)  # compares the hash
            state = "intact"
        except CheckpointError as error:
            state = "damaged"
            problems.append(f"the shipped network {name}: {error}")
        rows.append({"network": name, "mb": path.stat().st_size / 1e6, "state": state})
    return rows


def _systems(problems: list[str]) -> list[dict[str, Any]]:
    from foreknow.common.deps import EXTRAS, available
    from foreknow.common.errors import ForeknowWarning
    from foreknow.core.registry import catalogue, failures

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ForeknowWarning)  # told one by one below
        entries = catalogue()
        problems.extend(f"{module} cannot be imported: {reason}" for module, reason in failures().items())
    rows = []
    for slug, entry in entries.items():
        missing = [
            extra for extra in entry.card.extras if not all(available(module) for module in EXTRAS.get(extra, ()))
        ]
        needs = f"pip install 'foreknow[{','.join(missing)}]'" if missing else None
        rows.append({"system": slug, "runs": not missing, "needs": needs, "small_proof": entry.card.cost})
    return rows


def _show(record: dict[str, Any]) -> None:
    for title in ("versions", "machine"):
        show_table(
            title.capitalize(), ("", ""), [(name, figure(value)) for name, value in (record[title] or {}).items()]
        )
    for title in ("extras", "devices", "networks", "systems"):
        rows = record[title]
        if rows:
            show_table(title.capitalize(), list(rows[0]), [_cells(row) for row in rows])


def _cells(row: dict[str, Any]) -> list[Any]:
    return [", ".join(value) if isinstance(value, list) else value for value in row.values()]
