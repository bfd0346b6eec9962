"""Basis curves of one run's metric over epochs t >= 1, and the priors of their parameters.

The families are those of Domhan et al. (2015); the priors are the ones the released code of Adriaensen et al. (2023)
draws from. A parameter is drawn on its own `raw` scale, logarithmic where its prior is, and used on its natural one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Columns = tuple[Tensor, ...]


@dataclass(frozen=True)
class Parameter:
    """One parameter of a family.

    Args:
        name: of the parameter.
        kind: "uniform" on [a, b] or "normal" with mean a and standard deviation b, of the raw value.
        a, b: see `kind`.
        scale: raw to natural: "same", "exp" (the raw value is a logarithm) or "1-exp".
    """

    name: str
    kind: str
    a: float
    b: float
    scale: str = "same"

    def natural(self, raw: Tensor) -> Tensor:
        """The value as the family's formula uses it."""
        return raw if self.scale == "same" else raw.exp() if self.scale == "exp" else 1.0 - raw.exp()

    def log_prob(self, raw: Tensor) -> Tensor:
        """Log density of raw values."""
        if self.kind == "uniform":
            inside = (raw >= self.a) & (raw <= self.b)
            return torch.where(inside, -math.log(self.b - self.a), -math.inf)
        z = (raw - self.a) / self.b
        return -0.5 * z.square() - math.log(self.b) - 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True)
class Family:
    """A basis curve: its formula, with parameters of shape (..., 1) and ln t of shape (T,), and their priors.

    Args:
        formula: (natural parameters, ln t) -> values, shape (..., T).
        parameters: their priors.
        uninformative: the priors of the control arm, or None where the released code has none.
    """

    formula: Callable[[Columns, Tensor], Tensor]
    parameters: tuple[Parameter, ...]
    uninformative: tuple[Parameter, ...] | None = None


def _uniform(name: str, low: float, high: float) -> Parameter:
    return Parameter(name, "uniform", low, high)


def _normal(name: str, mean: float, sd: float) -> Parameter:
    return Parameter(name, "normal", mean, sd)


def _log_normal(name: str, mean: float, sd: float) -> Parameter:
    return Parameter(name, "normal", mean, sd, "exp")


def _log_uniform(name: str, low: float, high: float) -> Parameter:
    return Parameter(name, "uniform", low, high, "exp")


def _pow3(p: Columns, log_t: Tensor) -> Tensor:
    a, c, alpha = p
    return c - a * (-alpha * log_t).exp()


def _ilog2(p: Columns, log_t: Tensor) -> Tensor:
    a, c = p
    return c - a / log_t.exp().log1p()


def _janoschek(p: Columns, log_t: Tensor) -> Tensor:
    a, b, k, d = p
    return a - (a - b) * (-k * (d * log_t).exp()).exp()


def _log_power(p: Columns, log_t: Tensor) -> Tensor:
    a, b, c = p
    return a / (1 + (c * (log_t - b)).exp())


def _weibull(p: Columns, log_t: Tensor) -> Tensor:
    alpha, beta, k, d = p
    return alpha - (alpha - beta) * (-(d * (log_t + k.log())).exp()).exp()


def _mmf(p: Columns, log_t: Tensor) -> Tensor:
    alpha, beta, k, d = p
    return alpha - (alpha - beta) / (1 + (d * (log_t + k.log())).exp())


def _vap(p: Columns, log_t: Tensor) -> Tensor:
    a, b, c = p
    return (a + b * (-log_t).exp() + c * log_t).exp()


def _loglog(p: Columns, log_t: Tensor) -> Tensor:
    a, b = p
    return (a * log_t + b).log()


def _exp4(p: Columns, log_t: Tensor) -> Tensor:
    c, a, alpha, b = p
    return c - (b - a * (alpha * log_t).exp()).exp()


def _pow4(p: Columns, log_t: Tensor) -> Tensor:
    c, a, alpha, b = p
    return c - (-alpha * (a * log_t.exp() + b).log()).exp()


def _hill(p: Columns, log_t: Tensor) -> Tensor:
    theta, eta, kappa = p
    return theta / (1 + (eta * (kappa.log() - log_t)).exp())


PUBLISHED = ("pow3", "ilog2", "janoschek")
"""The three families of the paper's prior."""

WIDE = (*PUBLISHED, "weibull", "mmf", "hill")
"""Three more, of which each can stay flat before it rises."""

FAMILIES: dict[str, Family] = {
    "pow3": Family(
        _pow3,
        (_uniform("a", -0.6, 0.6), _uniform("c", 0.0, 1.25), _log_normal("alpha", 0.0, 2.0)),
        (_uniform("a", -1.0, 1.0), _uniform("c", 0.0, 1.0), _uniform("alpha", 0.0, 1.0)),
    ),
    "ilog2": Family(
        _ilog2,
        (_uniform("a", -0.5, 0.5), _uniform("c", 0.0, 1.0)),
        (_uniform("a", -1.0, 1.0), _uniform("c", 0.0, 1.0)),
    ),
    "janoschek": Family(
        _janoschek,
        (_uniform("a", 0.0, 1.0), _uniform("b", 0.0, 2.0), _log_normal("k", -2.0, 1.0), _log_normal("d", 0.0, 0.5)),
        (_uniform("a", 0.0, 1.0), _uniform("b", 0.0, 2.0), _uniform("k", 0.0, 1.0), _uniform("d", -5.0, 5.0)),
    ),
    "log_power": Family(_log_power, (_normal("a", 0.8, 0.1), _normal("b", 1.0, 1.0), _uniform("c", -3.0, 0.0))),
    "weibull": Family(
        _weibull,
        (
            _uniform("alpha", 0.0, 1.5),
            _uniform("beta", 0.0, 1.0),
            _log_normal("k", -2.0, 1.0),
            _log_normal("d", 0.0, 0.5),
        ),
    ),
    "mmf": Family(
        _mmf,
        (
            _normal("alpha", 0.8, 0.1),
            _normal("beta", 0.2, 0.1),
            _log_normal("k", 0.0, 2.0),
            _log_normal("d", 0.0, 1.0),
        ),
    ),
    "vap": Family(_vap, (_uniform("a", -2.0, 0.0), _uniform("b", -4.0, 0.0), _log_uniform("c", -8.0, 0.0))),
    "loglog": Family(_loglog, (_log_normal("a", -2.0, 1.0), _log_uniform("b", 0.0, 1.0))),
    "exp4": Family(
        _exp4,
        (
            _normal("c", 0.8, 0.1),
            _log_normal("a", -2.0, 1.0),
            _log_normal("alpha", 0.0, 1.0),
            _log_normal("b", 0.0, 0.5),
        ),
    ),
    "pow4": Family(
        _pow4,
        (
            Parameter("c", "uniform", -5.0, 0.0, "1-exp"),
            _log_normal("a", -3.0, 2.0),
            _log_normal("alpha", 0.0, 1.0),
            _log_uniform("b", 0.0, 1.0),
        ),
    ),
    "hill": Family(_hill, (_normal("theta", 0.8, 0.1), _log_normal("eta", 1.0, 1.0), _log_normal("kappa", 1.0, 2.0))),
}
"""Name -> family."""
