"""One option an item under budgets: the exact optimum, what more budget would buy, and what can be reached at all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foreknow.common.errors import ConvergenceError, InputError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Choice:
    """The best choice.

    Args:
        options: index of the chosen option of every item.
        value: what was minimised, summed over the items.
        cost: what was used of every budget.
        shadow_price: by how much `value` would fall for one unit more of a budget, from the linear relaxation.
    """

    options: tuple[int, ...]
    value: float
    cost: dict[str, float]
    shadow_price: dict[str, float]


def choose(
    values: Sequence[Sequence[float]],
    costs: Mapping[str, Sequence[Sequence[float]]],
    limits: Mapping[str, float],
    ties: Sequence[Sequence[int]] = (),
) -> Choice:
    """Choose one option for every item so that the sum of `values` is least and no budget is exceeded.

    An integer program, solved to optimality by `scipy.optimize.milp`.

    Args:
        values: what each option of each item adds to the total; items may have different numbers of options.
        costs: name of a budget -> what each option of each item costs, in the shape of `values`.
        limits: name of a budget -> the most that may be spent; names are those of `costs`, or some of them.
        ties: groups of items that must take the same option, by index.

    Raises:
        InputError: no choice keeps within the budgets (the message says what can be reached), or the arguments do
            not belong together.
        ConvergenceError: the solver gave up.
    """
    from scipy.optimize import Bounds, LinearConstraint, linprog, milp

    tables = {"values": values, **{f"costs[{name!r}]": table for name, table in costs.items()}}
    for name, table in tables.items():
        if [len(row) for row in table] != [len(row) for row in values] or not len(values) or not all(map(len, values)):
            raise InputError(f"choose: {name} must have a number for every option of every item.")
        if not all(math.isfinite(number) for row in table for number in row):
            raise InputError(f"choose: {name} must be finite.")
    unknown = [name for name in limits if name not in costs]
    if unknown or not all(math.isfinite(limit) for limit in limits.values()):
        raise InputError(f"choose: limits must be finite numbers for some of {sorted(costs)}, got {dict(limits)!r}.")
    group = _groups(len(values), ties)
    members = [[item for item, g in enumerate(group) if g == number] for number in range(max(group) + 1)]
    for same in members:
        if len({len(values[item]) for item in same}) > 1:
            raise InputError(f"choose: the tied items {same} have different numbers of options.")
    value = _merge(values, members)
    cost = {name: _merge(table, members) for name, table in costs.items()}
    _refuse_unreachable(cost, limits)

    owner = np.concatenate([np.full(len(row), number) for number, row in enumerate(value)])
    one_each = (owner == np.arange(len(members))[:, None]).astype(float)
    flat = np.concatenate(value)
    unit = float(np.abs(flat).max()) or 1.0
    names = list(limits)
    # Every row in units of its own largest entry, so that the solver's tolerances mean the same in all of them.
    scale = {name: float(np.abs(np.concatenate(cost[name])).max()) or 1.0 for name in names}
    spent = np.array([np.concatenate(cost[name]) / scale[name] for name in names]).reshape(len(names), len(flat))
    most = np.array([limits[name] / scale[name] for name in names])
    slack = 1e-9 * np.abs(most)  # a budget that is the cost of a choice, but for rounding, allows that choice
    constraints = [LinearConstraint(one_each, 1, 1)]
    if names:
        constraints.append(LinearConstraint(spent, -np.inf, most + slack))
    found = milp(
        flat / unit,
        constraints=constraints,
        integrality=np.ones(len(flat)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0},
    )
    if found.status == 2:
        raise InputError(
            f"choose: each budget can be met alone, but no choice meets all of {dict(limits)!r} at once.",
            hint="Raise one of them.",
        )
    if found.x is None:
        raise ConvergenceError(f"choose: the integer program was not solved ({found.message}).")
    relaxed = linprog(
        flat / unit,
        A_ub=spent if names else None,
        b_ub=most + slack if names else None,
        A_eq=one_each,
        b_eq=np.ones(len(members)),
        bounds=(0, 1),
        method="highs",
    )
    taken = [int(found.x[owner == number].argmax()) for number in range(len(members))]
    options = tuple(taken[g] for g in group)
    return Choice(
        options=options,
        value=_total(values, options),
        cost={name: _total(table, options) for name, table in costs.items()},
        shadow_price={
            name: max(0.0, -float(price)) * unit / scale[name]
            for name, price in zip(names, relaxed.ineqlin.marginals if names else ())
        },
    )


def _total(table: Sequence[Sequence[float]], options: Sequence[int]) -> float:
    return float(sum(row[option] for row, option in zip(table, options, strict=True)))


def _groups(n_items: int, ties: Sequence[Sequence[int]]) -> list[int]:
    """Number of each item's group; chained ties are one group."""
    leader = list(range(n_items))
    for tie in ties:
        if not all(0 <= item < n_items for item in tie):
            raise InputError(f"choose: ties must hold indices below {n_items}, got {list(tie)!r}.")
        same = {leader[item] for item in tie}
        leader = [min(same) if one in same else one for one in leader]
    order = {one: number for number, one in enumerate(dict.fromkeys(leader))}
    return [order[one] for one in leader]


def _merge(table: Sequence[Sequence[float]], members: Sequence[Sequence[int]]) -> list[Array]:
    return [np.sum([np.asarray(table[item], dtype=np.float64) for item in same], axis=0) for same in members]


def _refuse_unreachable(cost: Mapping[str, Sequence[Array]], limits: Mapping[str, float]) -> None:
    for name, limit in limits.items():
        least = float(sum(row.min() for row in cost[name]))
        if least > limit + 1e-9 * abs(limit):
            raise InputError(
                f"choose: the budget {name} = {limit:.6g} cannot be met; the least that can be reached is {least:.6g}.",
                hint=f"Allow at least {least:.6g}, or offer cheaper options.",
            )
