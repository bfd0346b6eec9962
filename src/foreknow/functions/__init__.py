"""Priors over functions and kernels."""

from foreknow.common.lazy import lazy_names as _lazy_names

_MM_GPVAE = "foreknow.functions.mm_gpvae."
_PUBLIC = {
    "FourierGP": _MM_GPVAE + "prior",
    "GPVAE": _MM_GPVAE + "network",
    "MMGPVAE": _MM_GPVAE + "system",
    "RotatingDigits": _MM_GPVAE + "simulator",
    "rotating_digits": _MM_GPVAE + "simulator",
}

__all__ = sorted(_PUBLIC)  # noqa: PLE0605

__getattr__, __dir__ = _lazy_names(__name__, _PUBLIC)
