import numpy as np
import pytest
import torch

from foreknow.common.errors import InputError
from foreknow.common.rng import seeded_init
from foreknow.core.source import ExampleSource


def images(n=20):
    return np.arange(n * 4, dtype=np.float64).reshape(n, 1, 2, 2)


def first(sample):
    return {float(row.flat[0]) for row in sample.X}


def test_larger_training_sets_contain_the_smaller_and_never_meet_the_test_rows():
    source = ExampleSource("images", images(), unit="images")
    small, large = source.split(3, seed=1), source.split(source.n_max, seed=1)
    assert first(small.train) < first(large.train)
    assert first(small.test) == first(large.test)
    assert not first(large.train) & first(large.test)
    assert len(large.train.X) + len(large.test.X) == 20
    assert first(small.test) != first(source.split(3, seed=2).test)


def test_groups_are_never_split():
    groups = np.repeat(np.arange(5), 4)
    source = ExampleSource("fonts", images(), groups=groups, n_test=6)
    for seed in range(8):
        split = source.split(source.n_max, seed)
        of_test = {int(value) // 16 for value in first(split.test)}
        of_train = {int(value) // 16 for value in first(split.train)}
        assert of_test
        assert not of_test & of_train
        assert len(split.test.X) == 6


def test_texts_targets_and_further_inputs_go_along():
    texts = [f"text {k}" for k in range(10)]
    split = ExampleSource("texts", texts, texts, named={"k": 3}).split(4, seed=0)
    assert split.train.y == split.train.X
    assert isinstance(split.test.X, list)
    assert split.train.named == {"k": 3}


def test_the_hash_follows_the_contents():
    assert ExampleSource("a", images()).content_hash == ExampleSource("a", images()).content_hash
    assert ExampleSource("a", images()).content_hash != ExampleSource("a", images() + 1).content_hash


@pytest.mark.parametrize("named", [{"y": [1, 2]}, {"groups": np.zeros(20)}, {"n_test": 20}])
def test_what_cannot_be_split_is_refused(named):
    with pytest.raises(InputError):
        ExampleSource("a", images(), **named)


def test_more_rows_than_there_are_is_refused():
    with pytest.raises(InputError, match="13 rows to learn from were asked for, 12 are not test rows"):
        ExampleSource("a", images()).split(13, seed=0)


def test_what_else_fit_takes_is_part_of_the_content() -> None:
    def hash_of(**named: object) -> str:
        return ExampleSource("rows", np.arange(10.0), named=named).content_hash

    def linear(seed: int) -> torch.nn.Module:
        with seeded_init(seed):
            return torch.nn.Linear(2, 1)

    network, same, other = linear(0), linear(0), linear(1)
    assert hash_of(model=network) == hash_of(model=same) != hash_of(model=other)
    assert hash_of() == ExampleSource("rows", np.arange(10.0)).content_hash != hash_of(model=network)
    assert len({hash_of(a=1), hash_of(a=2), hash_of(b=1), hash_of(a=(1, 2)), hash_of(a={"c": np.ones(2)})}) == 5
    assert hash_of(a=object()) == hash_of(a=object())
