"""Pictures of what a network does: priors, and what becomes of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from foreknow.common.rng import torch_stream
from foreknow.core.pictures import Lines, Picture
from foreknow.tasks.distribution_transformer.beliefs import Belief
from foreknow.tasks.distribution_transformer.observing import ObservationModel
from foreknow.tasks.distribution_transformer.prior import density_of
from foreknow.tasks.distribution_transformer.training import draw_tasks

if TYPE_CHECKING:
    from foreknow.tasks.distribution_transformer.system import DistributionTransformer

_N_SHOWN = 3


def prior_to_posterior(
    system: DistributionTransformer, model: ObservationModel, *, seed: int = 0
) -> Mapping[str, Picture]:
    """A few tasks: the density of T(x)'s first number before and after the observations, with the true state."""
    trained = system._ready()
    family = trained.family
    tasks = draw_tasks(trained.meta, model, _N_SHOWN, torch_stream(seed, "distribution-transformer", "pictures"))
    assert tasks.exact is not None and tasks.state is not None
    found: dict[str, Picture] = {}
    for i in range(_N_SHOWN):
        params = tasks.exact[i]
        belief = Belief(family, params)
        seen = {name: value[i][~value[i].isnan().any(-1)] for name, value in tasks.tokens.items()}
        after = system.update(belief, **seen)
        truth = float(tasks.state[i, 0])
        mixture = after.as_mixture()
        centre, sd = float(mixture.mean()[0]), float(mixture.covariance()[0, 0].sqrt())
        t = torch.linspace(min(centre - 6 * sd, truth - sd), max(centre + 6 * sd, truth + sd), 400, dtype=torch.float64)
        posterior = mixture.marginal(0).log_prob(t).exp()
        lines: dict[str, Any] = {
            "prior": density_of(family, params, t).numpy(),
            "posterior": posterior.numpy(),
            "true state": [0.0, float(posterior.max())],
        }
        axis: dict[str, Any] = {"prior": t.numpy(), "posterior": t.numpy(), "true state": [truth, truth]}
        label = {"positive": "log of the state", "unit": "log odds of the state", "real": "state"}[family.supports[0]]
        n_seen = sum(len(value) for value in seen.values())
        found[f"posterior-{i + 1}"] = Lines(
            axis, lines, label, "density", title=f"Before and after {n_seen} observation{'s' if n_seen != 1 else ''}"
        )
    return found
