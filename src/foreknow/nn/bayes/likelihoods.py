"""What a network's outputs say of the targets."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from foreknow.common.validate import check_int, check_real


class Likelihood(ABC):
    """p(y | outputs), for many chains at once."""

    n_outputs: int

    @abstractmethod
    def log_prob(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Log density of each target, shape (chains, n), of outputs (chains, n, n_outputs)."""

    @abstractmethod
    def curvature(self, outputs: Tensor) -> Tensor:
        """Minus the second derivative in the outputs (n, n_outputs): shape (n, n_outputs, n_outputs)."""


class GaussianNoise(Likelihood):
    """Normal noise of one known variance on each output.

    Args:
        variance: of the noise, greater than 0.
        n_outputs: number of targets a row.
    """

    def __init__(self, variance: float = 0.1, n_outputs: int = 1) -> None:
        self.variance = check_real("GaussianNoise", "variance", variance, low=0, open_low=True)
        self.n_outputs = check_int("GaussianNoise", "n_outputs", n_outputs, low=1)

    def log_prob(self, outputs: Tensor, y: Tensor) -> Tensor:
        target = y if y.ndim == outputs.ndim else y.unsqueeze(-1)
        error = (outputs - target).square() / self.variance + math.log(2 * math.pi * self.variance)
        return -0.5 * error.sum(-1)

    def curvature(self, outputs: Tensor) -> Tensor:
        eye = torch.eye(self.n_outputs, dtype=outputs.dtype, device=outputs.device) / self.variance
        return eye.expand(len(outputs), -1, -1)


class Softmax(Likelihood):
    """Classes by a softmax over the outputs; targets are class codes.

    Args:
        n_classes: number of outputs, at least 2.
    """

    def __init__(self, n_classes: int = 2) -> None:
        self.n_outputs = check_int("Softmax", "n_classes", n_classes, low=2)

    def log_prob(self, outputs: Tensor, y: Tensor) -> Tensor:
        codes = y.long().expand(outputs.shape[:-1]).unsqueeze(-1)
        return outputs.log_softmax(-1).gather(-1, codes).squeeze(-1)

    def curvature(self, outputs: Tensor) -> Tensor:
        p = outputs.softmax(-1)
        return torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)


class Bernoulli(Likelihood):
    """Two classes by the logistic function of one output; targets are 0 or 1."""

    n_outputs = 1

    def log_prob(self, outputs: Tensor, y: Tensor) -> Tensor:
        logit = outputs.squeeze(-1)
        return y * logit - torch.nn.functional.softplus(logit)

    def curvature(self, outputs: Tensor) -> Tensor:
        p = torch.sigmoid(outputs)
        return (p * (1 - p)).unsqueeze(-1)
