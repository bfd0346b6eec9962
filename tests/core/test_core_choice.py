"""One option an item: against all combinations, ties, shadow prices, and what cannot be reached."""

import itertools

import numpy as np
import pytest

from foreknow.common.errors import InputError
from foreknow.core.choice import choose


def best_of_all(values, costs, limits):
    """The least total among all combinations that keep within the budgets."""
    best = np.inf
    for options in itertools.product(*(range(len(row)) for row in values)):
        spent = {name: sum(row[i] for row, i in zip(table, options)) for name, table in costs.items()}
        if all(spent[name] <= limit + 1e-12 for name, limit in limits.items()):
            best = min(best, sum(row[i] for row, i in zip(values, options)))
    return best


@pytest.mark.parametrize("seed", range(12))
def test_is_the_best_of_all_combinations(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = [int(rng.integers(1, 4)) for _ in range(6)]
    # Values and costs of very different sizes: tolerances must not decide.
    values = [list(1e-6 * rng.exponential(size=n)) for n in shape]
    costs = {"bytes": [list(1e7 * rng.random(n)) for n in shape], "ms": [list(rng.random(n)) for n in shape]}
    limits = {name: sum(np.mean(row) for row in table) for name, table in costs.items()}
    expected = best_of_all(values, costs, limits)
    if not np.isfinite(expected):
        with pytest.raises(InputError):
            choose(values, costs, limits)
        return
    found = choose(values, costs, limits)
    assert found.value == pytest.approx(expected, rel=1e-9)
    assert found.value == pytest.approx(sum(row[i] for row, i in zip(values, found.options)))
    assert all(found.cost[name] <= limit * (1 + 1e-8) for name, limit in limits.items())


def test_tied_items_take_one_option_and_chains_of_ties_are_one_group() -> None:
    values = [[0.0, 1.0], [9.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    free = choose(values, {}, {})
    assert free.options == (0, 1, 0, 0)
    tied = choose(values, {}, {}, ties=[(0, 1), (2, 1)])
    assert tied.options == (1, 1, 1, 0) and tied.value == 2.0


def test_a_budget_that_is_exactly_the_cost_of_a_choice_allows_it() -> None:
    costs = {"size": [[0.1, 0.3]] * 3}
    assert choose([[1.0, 0.0]] * 3, costs, {"size": 0.3 + 0.3 + 0.1}).value == 1.0


def test_shadow_price_is_what_the_relaxation_gains_by_one_unit() -> None:
    costs = {"size": [[0.0, 2.0]], "time": [[0.0, 1.0]]}
    found = choose([[10.0, 0.0]], costs, {"size": 1.0, "time": 50.0})
    assert found.shadow_price == pytest.approx({"size": 5.0, "time": 0.0})


def test_what_cannot_be_met_names_what_can_be_reached() -> None:
    costs = {"size": [[3.0, 5.0], [4.0, 6.0]]}
    with pytest.raises(InputError, match=r"size = 6 cannot be met; the least that can be reached is 7"):
        choose([[1.0, 0.0]] * 2, costs, {"size": 6.0})
    both = {"size": [[0.0, 1.0]], "time": [[1.0, 0.0]]}
    with pytest.raises(InputError, match="at once"):
        choose([[0.0, 0.0]], both, {"size": 0.5, "time": 0.5})


@pytest.mark.parametrize(
    ("values", "costs", "limits", "ties"),
    [
        ([], {}, {}, ()),
        ([[]], {}, {}, ()),
        ([[1.0, np.nan]], {}, {}, ()),
        ([[1.0, 2.0]], {"size": [[1.0]]}, {"size": 1.0}, ()),
        ([[1.0, 2.0]], {"size": [[1.0, 2.0]]}, {"time": 1.0}, ()),
        ([[1.0, 2.0]], {"size": [[1.0, 2.0]]}, {"size": np.inf}, ()),
        ([[1.0, 2.0], [1.0]], {}, {}, [(0, 1)]),
        ([[1.0, 2.0]], {}, {}, [(0, 1)]),
    ],
)
def test_what_does_not_belong_together_is_refused(values, costs, limits, ties) -> None:
    with pytest.raises(InputError, match="choose"):
        choose(values, costs, limits, ties)
