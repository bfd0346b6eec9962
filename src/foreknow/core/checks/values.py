"""What the checks of priors test with: draws, values, modules, and integrals of densities.

Values are draws where the prior samples; else standard normal numbers of the shape `prior.event_shape` if it
has that attribute, else (5,). A prior that is wired into modules may offer `example_module() -> (module,
input)`; else a `Linear(4, 4)` is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from foreknow.common.rng import numpy_stream, torch_stream
from foreknow.core import prior as contracts
from foreknow.core.batch import Batch
from foreknow.core.prior import Draw, Prior, Simulator


def can(*names: str) -> Callable[[Prior], bool]:
    """A condition: the prior has all these capabilities."""
    return lambda prior: set(names) <= prior.capabilities()


def simulates(prior: Prior) -> bool:
    """Whether the prior draws whole tables."""
    return isinstance(prior, Simulator)


def n_values(prior: Prior) -> int:
    """How many numbers one value of the prior's domain has."""
    return int(values_of(prior, 1)[0].numel())


def draw(prior: Prior, n: int = 4, *, seed: int = 0, **options: Any) -> Draw | Batch:
    """`n` seeded draws; of a simulator, small tables."""
    if isinstance(prior, Simulator):
        options = {"n_context": 5, "n_query": 3, **options}
    generator = torch_stream(seed, "checks", device=options.get("device") or "cpu")
    return cast(contracts.Samples, prior).sample(n, generator=generator, **options)


def parts(drawn: Draw | Batch) -> dict[str, Tensor]:
    """The tensors of a draw by name."""
    if isinstance(drawn, Draw):
        return {"value": drawn.value}
    named = {name: getattr(drawn, name) for name in ("context_x", "context_y", "query_x", "query_y")}
    return {name: value for name, value in named.items() if value is not None}


def values_of(prior: Prior, n: int, *, seed: int = 0) -> Tensor:
    """`n` values of the prior's domain in float64, shape (n, *event)."""
    if "samples" in prior.capabilities() and not isinstance(prior, Simulator):
        drawn = draw(prior, n, seed=seed, dtype=torch.float64)
        if isinstance(drawn, Draw):
            return drawn.value
    shape = tuple(getattr(prior, "event_shape", (5,)))
    return torch.randn(n, *shape, generator=torch_stream(seed, "checks"), dtype=torch.float64)


def module_of(prior: Prior) -> tuple[nn.Module, Tensor]:
    """An example module in float64 whose parameters are all different, and an input for it."""
    offer = getattr(prior, "example_module", None)
    generator = torch_stream(0, "module")
    if offer is not None:
        module, given = offer()
    else:
        module = nn.utils.skip_init(nn.Linear, 4, 4)  # type: ignore[no-untyped-call]
        given = torch.randn(8, 4, generator=generator)
    module = module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 2)
    return module, given.double() if given.is_floating_point() else given


def weights_of(module: nn.Module) -> Tensor:
    """Every number the module computes with: parameters, parametrised and masked weights, flat."""
    found: dict[str, Tensor] = {}
    for path, part in module.named_modules():
        names = {**part._parameters, **{k: v for k, v in vars(part).items() if isinstance(v, Tensor)}}
        names.update(dict.fromkeys(getattr(part, "parametrizations", {})))
        for name in names:
            value = getattr(part, name)
            if isinstance(value, Tensor) and value.is_floating_point():
                found[f"{path}.{name}"] = value.detach().flatten()
    return torch.cat([found[name] for name in sorted(found)])


def first_tensor(result: Any) -> Tensor:
    """The first tensor in what a module returned."""
    while not isinstance(result, Tensor):
        result = next(iter(result.values())) if isinstance(result, dict) else result[0]
    return result


def integral_on_grid(prior: Prior, size: int = 100_001) -> tuple[NDArray[Any], NDArray[Any]]:
    """Points of the real line, dense where the draws are, and the integral of the density up to each."""
    draws = values_of(prior, 2001)
    shape = draws.shape[1:]
    low, middle, high = np.quantile(draws.numpy(), [0.25, 0.5, 0.75])
    angle = math.pi * ((np.arange(size) + 0.5) / size - 0.5)
    points = middle + max(high - low, 1e-6) / 2 * np.tan(angle)
    width = max(high - low, 1e-6) / 2 * math.pi / size / np.cos(angle) ** 2
    log_p = cast(contracts.HasDensity, prior).log_prob(torch.from_numpy(points).reshape(size, *shape))
    return points, np.cumsum(np.exp(log_p.detach().numpy()) * width)


def integral_by_sampling(prior: contracts.HasDensity, draws: Tensor, n: int = 20_000) -> tuple[float, float]:
    """The integral of a density and its standard error, from a wide Student-t around the draws."""
    flat = draws.flatten(1).numpy()
    proposal = stats.multivariate_t(flat.mean(0), np.cov(flat.T) * 1.2, df=5)
    points = proposal.rvs(n, random_state=numpy_stream(0, "integral"))
    log_p = prior.log_prob(torch.from_numpy(points).reshape(n, *draws.shape[1:])).detach().numpy()
    weights = np.exp(log_p - proposal.logpdf(points))
    return float(weights.mean()), float(weights.std() / math.sqrt(n))
