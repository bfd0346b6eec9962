"""Named child random streams. The library never touches the global generators.

A stream is addressed by a path of names, so a draw added in one place does not shift another:
`numpy_stream(0, "folds")` and `numpy_stream(0, "prior", "gp")` are independent for ever.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np

from foreknow.common.errors import ConfigError

if TYPE_CHECKING:
    import torch


def seed_of(random_state: object, *names: str) -> int:
    """A 63-bit seed for the child stream `names` of `random_state`.

    Args:
        random_state: an integer >= 0, None (fresh entropy), or a numpy `RandomState`/`Generator`
            (one draw is taken from it, as scikit-learn does).
        names: the path of the child stream.

    Raises:
        ConfigError: if `random_state` is of another kind.
    """
    if random_state is None:
        root = secrets.randbits(62)
    elif isinstance(random_state, Integral) and not isinstance(random_state, bool):
        root = int(random_state)
        if root < 0:
            raise ConfigError(f"random_state must be >= 0, got {root}.", hint="Pass a non-negative integer.")
    elif isinstance(random_state, np.random.RandomState):
        root = int(random_state.randint(0, 2**31 - 1))
    elif isinstance(random_state, np.random.Generator):
        root = int(random_state.integers(0, 2**63 - 1))
    else:
        raise ConfigError(
            f"random_state must be None, an integer >= 0 or a numpy generator, got {random_state!r}.",
            hint="Pass an integer for results that repeat.",
        )
    text = "\x1f".join([str(root), *names])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def numpy_stream(random_state: object, *names: str) -> np.random.Generator:
    """The numpy generator of the child stream `names`."""
    return np.random.default_rng(seed_of(random_state, *names))


def torch_stream(random_state: object, *names: str, device: str | torch.device = "cpu") -> torch.Generator:
    """The torch generator of the child stream `names`, on `device`."""
    import torch

    generator = torch.Generator(device=device)
    generator.manual_seed(seed_of(random_state, *names))
    return generator


@contextmanager
def seeded_init(seed: int) -> Iterator[None]:
    """Inside the block torch modules initialise themselves from `seed`; the global state is put back afterwards.

    Layers of torch draw their first weights from the global generator and take no other, so this is the one
    place that borrows it.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
