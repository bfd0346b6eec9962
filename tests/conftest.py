"""What holds for every test: shapes of network code are checked, and no test moves a global random state."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# beartype looks at random items of containers, with the getrandbits it finds when first imported: one of its own.
_plain, random.getrandbits = random.getrandbits, random.Random(0).getrandbits
import beartype._check.code.codemain  # noqa: E402, F401

random.getrandbits = _plain

# These draw from the global generator of `random` when they are first imported, whichever test that happens in.
import rich.style  # noqa: E402, F401
import sklearn.metrics  # noqa: E402, F401

# Shape annotations are enforced where tensors are computed with. Public records and functions outside refuse bad
# input with the library's own errors, and a type error of the hook would come before those and hide them.
_SOURCE = Path(__file__).resolve().parents[1] / "src"
_NETWORKS = [".".join(path.relative_to(_SOURCE).with_suffix("").parts) for path in _SOURCE.rglob("network.py")]
install_import_hook(["foreknow.nn", *_NETWORKS], "beartype.beartype")


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function):
    """Fail a test that changed the random state of Python, numpy or torch.

    The innermost hook, since pytest-randomly seeds anew before each phase; there is no way to opt out.
    """
    from foreknow.core.checks.watch import differences, random_states

    before = random_states()
    result = yield
    changed = differences(before, random_states())
    if changed:
        pytest.fail(f"the test changed the global random state of {', '.join(changed)}; use foreknow.common.rng.")
    return result
