"""Systems that learn from no tables: their sources, their own losses, their plain methods."""

from typing import ClassVar

import numpy as np
import pytest

import foreknow
from foreknow.common.errors import CapabilityError, InputError
from foreknow.common.validate import as_array
from foreknow.core.card import Card
from foreknow.core.prior import Prior
from foreknow.core.source import ExampleSource, Sample
from foreknow.core.system import System, Tags
from foreknow.pricing.arms import tables_of
from foreknow.pricing.study import design
from foreknow.tasks import GPPrior


def names_its_data(entry) -> bool:
    return entry.system is not None and not tables_of(entry.system) and bool(entry.system.priced_on("none"))


BASE = foreknow.catalogue()["pfn"].card


class MeanImage(System):
    """The mean of the images, drawn towards the middle grey by its prior."""

    card: ClassVar[Card] = BASE
    tags = Tags(uses_seed=False)

    def __init__(self, prior="paper", random_state=None, device="auto") -> None:
        self.prior = prior
        self.random_state = random_state
        self.device = device

    def _read_X(self, X, *, fitting):
        return as_array("MeanImage", X, axes=(3,))

    def _paper_prior(self) -> Prior:
        return GPPrior()

    def _fit(self, X, y) -> None:
        weight = 0.0 if self.prior == "off" else 4.0
        self.mean_ = (X.sum(0) + weight * 0.5) / (len(X) + weight)

    def _predict(self, X):
        return np.broadcast_to(self.mean_, X.shape)

    def losses(self, model, test: Sample):
        return {"mse": float(((model.predict(test.X) - test.X) ** 2).mean()), "worst": 1.0}

    def plain_baselines(self):
        return {"grey": lambda seed: Grey()}

    @classmethod
    def read_files(cls, paths, options) -> Sample:
        return Sample(np.load(paths[0]))

    @classmethod
    def priced_on(cls, task):
        return {"noise": ExampleSource("noise", noise(), unit="images")}


class Silent(MeanImage):
    def losses(self, model, test):
        raise CapabilityError("broken on purpose")


class Unsourced(MeanImage):
    @classmethod
    def priced_on(cls, task):
        return {}


class Grey:
    def fit(self, X, y=None):
        return self

    def predict(self, X):
        return np.full_like(X, 0.5)


def noise():
    return np.random.default_rng(0).normal(0.5, 0.2, size=(60, 2, 2))


def test_the_systems_own_losses_are_priced_on_its_own_data():
    price = foreknow.price(MeanImage, sizes=[2, 8], seeds=4)
    assert price.measure == "mse"
    assert [arm.name for arm in price.arms] == ["on", "off", "grey"]
    assert price.unit_of_data == "images"
    off = next(c for c in price.comparisons if c.arm == "off")
    assert off.difference.value < 0  # the prior is right: the middle grey is the mean
    found = {arm.name: arm.curves["mse"].mean for arm in price.arms}
    by_hand = []
    for seed in range(4):
        split = MeanImage.priced_on("none")["noise"].split(2, seed)
        by_hand.append(((split.train.X.mean(0) - split.test.X) ** 2).mean())
    assert found["off"][0] == pytest.approx(np.mean(by_hand))


def test_a_file_is_read_as_the_system_reads_it(tmp_path):
    np.save(tmp_path / "images.npy", noise())
    price = foreknow.price(MeanImage, tmp_path / "images.npy", arms=["on", "grey"], sizes=[4], seeds=2)
    assert price.sources[0]["n_rows"] == 60


def test_without_data_or_measure_a_named_error_says_so():
    with pytest.raises(InputError, match="names no data of its own"):
        foreknow.price(Unsourced)
    with pytest.raises(InputError, match="broken on purpose"):
        foreknow.price(Silent, sizes=[2], seeds=2)


@pytest.mark.parametrize("slug", [slug for slug, entry in foreknow.catalogue().items() if names_its_data(entry)])
def test_what_a_system_names_can_be_priced(slug):
    study = design(slug, seeds=2)
    assert {"on", "off", "wrong", "plain"} <= {arm.role for arm in study.arms}
    with pytest.raises(InputError, match="sizes must lie between"):
        design(slug, sizes=[10**6], seeds=2)
