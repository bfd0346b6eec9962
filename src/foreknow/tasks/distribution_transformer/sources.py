"""What `foreknow price` takes: tasks of the variance experiment; the size is how many observations a task has."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from foreknow.common.errors import InputError
from foreknow.common.files import hash_bytes
from foreknow.common.rng import torch_stream
from foreknow.core.source import Sample, Split
from foreknow.tasks.distribution_transformer.families import InverseGammaFamily
from foreknow.tasks.distribution_transformer.observing import NormalVariance
from foreknow.tasks.distribution_transformer.presets import experiment
from foreknow.tasks.distribution_transformer.supports import from_real

_MOST_LOG = 60.0  # of a variance: beyond it single precision cannot hold an observation


class VarianceSource:
    """Fresh priors, a variance from each, and the first observations of it; a seed is a set of tasks.

    Args:
        name: shown in reports.
        n_tasks: a seed.
    """

    task, unit, n_min = "none", "observations", 1

    def __init__(self, name: str, n_tasks: int = 500) -> None:
        self.name, self._n_tasks = name, n_tasks
        model = experiment("inverse-gamma").model
        assert isinstance(model, NormalVariance)
        self.n_max = model.n_max
        self.content_hash = hash_bytes(name.encode(), repr((n_tasks, experiment("inverse-gamma").meta)).encode())

    def split(self, size: int, seed: int, following: int = 0) -> Split:
        """Nothing to learn from but simulations; to be measured on, rows with the first `size` observations."""
        if not self.n_min <= size <= self.n_max:
            raise InputError(f"{self.name}: the size must be in {self.n_min}..{self.n_max} observations, got {size}.")
        generator = torch_stream(seed, "distribution-transformer", "price")
        params = experiment("inverse-gamma").meta.draw(2 * self._n_tasks, generator)
        state = InverseGammaFamily().sample(params, generator)
        keep = (state[:, 0].abs() < _MOST_LOG).nonzero()[: self._n_tasks, 0]
        params, state = params[keep], state[keep]
        x = from_real(state, ("positive",))
        z = x.sqrt() * torch.randn(self._n_tasks, self.n_max, generator=generator, dtype=torch.float64)
        z[:, size:] = np.nan
        return Split(Sample(None), Sample(torch.cat([params, z], 1).numpy(), x[:, 0].numpy()))

    def describe(self) -> dict[str, Any]:
        """For reports."""
        return {"name": self.name, "n_tasks": self._n_tasks, "unit": self.unit, "hash": self.content_hash}
