"""The watch that `conftest.py` puts on every test, and the shape checks of network code, can fail."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from foreknow.common.rng import seeded_init
from foreknow.core.checks.watch import process_settings, put_back, random_states
from foreknow.nn import InducedAttention

legacy_rand = np.random.rand


@pytest.mark.parametrize("draw", [random.random, legacy_rand, lambda: torch.rand(1)])
def test_a_test_that_draws_from_a_global_generator_fails(request, draw):
    top = Path(__file__).with_name("conftest.py")
    states = random_states()
    call = request.config.pluginmanager.get_plugin(str(top)).pytest_pyfunc_call(None)
    next(call)
    draw()
    with pytest.raises(pytest.fail.Exception, match="the test changed the global random state of"):
        call.send(None)
    put_back(states, process_settings())


@settings(max_examples=5, deadline=None)
@given(st.integers())
def test_hypothesis_puts_back_what_it_seeds(number):
    random.random()
    legacy_rand()


@seeded_init(0)
def test_shapes_of_network_code_are_checked():
    block = InducedAttention(8, 2)
    assert block(torch.zeros(1, 3, 8), torch.zeros(1, 2, 8)).shape == (1, 3, 8)
    with pytest.raises(TypeCheckError, match="Type-check error"):
        block(torch.zeros(1, 3, 8), torch.zeros(2, 8))
