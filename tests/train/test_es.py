"""The evolution strategy: its update written out, its invariances, and that a search can be resumed."""

from __future__ import annotations

import numpy as np
import pytest

from foreknow.common.errors import CheckpointError, ConfigError, InputError
from foreknow.train.es import ESSettings, Evolution, centred_ranks, train_es

GOAL = np.array([0.5, -1.0, 2.0])


def score(weights: np.ndarray, seed: int) -> float:
    return -float(((weights - GOAL) ** 2).sum())


def test_candidates_are_antithetic_and_first_step_is_written_out() -> None:
    search = Evolution([0.0, 1.0], ESSettings(6, 0.3, 0.05, 0.1), seed=4)
    candidates = search.ask()
    np.testing.assert_allclose(candidates[:3] + candidates[3:], 2 * np.tile([0.0, 1.0], (3, 1)), atol=1e-12)
    scores = candidates @ np.array([1.0, -2.0])
    noise = (candidates - [0.0, 1.0]) / 0.3
    ascent = sum((rank / 5 - 0.5) * noise[k] for rank, k in enumerate(np.argsort(scores))) / (6 * 0.3)
    loss_gradient = -ascent + 0.1 * np.array([0.0, 1.0])
    search.tell(scores)
    np.testing.assert_allclose(search.mean, [0.0, 1.0] - 0.05 * loss_gradient / (np.abs(loss_gradient) + 1e-8))


def test_ranks_are_centred_and_ties_share_theirs() -> None:
    assert centred_ranks(np.array([3.0, -1e30, 7.0])).tolist() == [0.0, -0.5, 0.5]
    assert centred_ranks(np.array([1.0, 1.0, 1.0, 1.0])).tolist() == [0.0] * 4


def test_it_finds_a_maximum_and_monotone_changes_of_the_score_do_not_matter() -> None:
    settings = ESSettings(12, 0.1, 0.1, 0.0)
    found = train_es(score, Evolution(np.zeros(3), settings, seed=1), 1200)
    np.testing.assert_allclose(found, GOAL, atol=0.2)
    same = train_es(lambda w, s: np.exp(score(w, s)), Evolution(np.zeros(3), settings, seed=1), 120)
    assert (same == train_es(score, Evolution(np.zeros(3), settings, seed=1), 120)).all()


def test_equal_scores_move_nothing_but_by_weight_decay() -> None:
    search = Evolution(GOAL, ESSettings(4, weight_decay=0.0))
    search.ask()
    search.tell(np.zeros(4))
    assert (search.mean == GOAL).all()


def test_a_search_goes_on_where_it_stopped() -> None:
    settings = ESSettings(4, 0.1, 0.1)
    whole = train_es(score, Evolution(np.zeros(3), settings, seed=9), 40)
    half = Evolution(np.zeros(3), settings, seed=9)
    train_es(score, half, 20)
    later = Evolution(np.zeros(3), settings)
    later.restore(half.state())
    assert (train_es(score, later, 20) == whole).all()
    with pytest.raises(CheckpointError, match="weights"):
        Evolution(np.zeros(2), settings).restore(half.state())


def test_budget_is_kept_and_a_generation_shares_its_seed() -> None:
    calls: list[int] = []
    sizes: list[int] = []

    def counted(weights: np.ndarray, seed: int) -> float:
        calls.append(seed)
        return score(weights, seed)

    train_es(counted, Evolution(np.zeros(3), ESSettings(4)), 11, after=lambda search, scores: sizes.append(len(scores)))
    assert sizes == [4, 4, 2]
    assert len(calls) == 10
    assert len(set(calls)) == 3
    assert len(set(calls[:4])) == 1


def test_bad_use_is_refused() -> None:
    with pytest.raises(ConfigError, match="even"):
        ESSettings(population=5)
    search = Evolution(np.zeros(2), ESSettings(4))
    with pytest.raises(InputError, match="after ask"):
        search.tell([1.0, 2.0, 3.0, 4.0])
    with pytest.raises(ConfigError, match="even"):
        search.ask(3)
    search.ask()
    with pytest.raises(InputError, match="NaN"):
        search.tell([1.0, float("nan"), 3.0, 4.0])
