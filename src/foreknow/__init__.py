"""foreknow: neural priors as objects. Look at one, plug it in, switch it off, put a price on it."""

from foreknow._version import __version__
from foreknow.common.lazy import lazy_names as _lazy_names

_PUBLIC = {
    "Card": "foreknow.core.card",
    "Prior": "foreknow.core.prior",
    "Simulator": "foreknow.core.prior",
    "System": "foreknow.core.system",
    "Batch": "foreknow.core.batch",
    "Predictive": "foreknow.core.predictive",
    "Checkpoint": "foreknow.core.checkpoint",
    "TabularClassifier": "foreknow.tasks",
    "catalogue": "foreknow.core.registry",
    "cite": "foreknow.core.cite",
    "load": "foreknow.core.system",
    "register": "foreknow.core.registry",
}

__all__ = ["__version__", *sorted(_PUBLIC)]  # noqa: PLE0604

__getattr__, __dir__ = _lazy_names(__name__, {**_PUBLIC, "__version__": "foreknow._version"})
