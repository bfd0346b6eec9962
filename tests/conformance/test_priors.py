"""Every prior of the catalogue and its control arm meet every shared check that their capabilities call for."""

import pytest
from members import cases, walked

from foreknow.core import checks


@pytest.mark.parametrize("check", cases(prior for entry in walked().values() for prior in entry.priors))
def test_prior(check):
    check()


def test_the_checks_are_there():
    assert len(checks.PRIORS.names) > 20
