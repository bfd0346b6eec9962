"""The prior of a network's weights that is matched to a prior over functions, or its control arm."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from foreknow.common.errors import ConfigError
from foreknow.common.progress import Reporter
from foreknow.common.rng import torch_stream
from foreknow.common.validate import check_bool, check_int, check_option
from foreknow.core.pictures import Lines
from foreknow.core.prior import Draw, Prior
from foreknow.core.registry import register
from foreknow.functions.functional_prior.card import CARD
from foreknow.functions.functional_prior.matching import MatchSettings, Measurement, match_weights
from foreknow.functions.functional_prior.targets import GPFunctions, as_target
from foreknow.nn.bayes import FlatNetwork, FlowLayers, GaussianLayers, HierarchicalLayers, WeightPrior, mlp

FAMILIES = ("gaussian", "hierarchical", "flow")
SHOWN = (50, 50, 50)
"""Hidden layers of the network whose functions `sample` shows."""


@register(CARD)
@dataclass(frozen=True)
class FunctionalPrior(Prior):
    """Weights whose functions look like those of `target`.

    It says what is wanted until `match` finds the numbers for one network, which it then carries in `values`.

    Args:
        target: a `FunctionPrior`; a Gaussian process with hyper-priors by default.
        family: "gaussian" (GPi-G: a variance a layer), "hierarchical" (GPi-H: an inverse gamma a layer) or "flow"
            (GPi-NF: a normalizing flow a layer).
        matched: False is the control arm: N(0, 1) weights, or with "hierarchical" variances from InvGamma(1, 1).
        rank: of the flow's steps, 1 for planar, more for Sylvester flows.
        n_flow_steps: steps of a flow.
        values: what `match` found; empty before.
        fan_in: divide variances by fan_in; None does so where `matched`.
    """

    target: Prior = field(default_factory=lambda: GPFunctions(with_hyperprior=True))
    family: str = "gaussian"
    matched: bool = True
    rank: int = 1
    n_flow_steps: int = 4
    values: tuple[float, ...] = ()
    fan_in: bool | None = None

    def __post_init__(self) -> None:
        as_target(self.target)
        check_option("FunctionalPrior", "family", self.family, FAMILIES)
        check_bool("FunctionalPrior", "matched", self.matched)
        check_int("FunctionalPrior", "rank", self.rank, low=1)
        check_int("FunctionalPrior", "n_flow_steps", self.n_flow_steps, low=1)
        if self.fan_in is not None:
            check_bool("FunctionalPrior", "fan_in", self.fan_in)
        if self.values and not self.matched:
            raise ConfigError("FunctionalPrior: the control arm has no values to carry.")

    def off(self) -> Prior:
        return replace(self, matched=False, values=(), fan_in=None)

    def wrong(self, factor: float = 5.0) -> FunctionalPrior:
        """The placebo: the same matched to functions `factor` times as smooth."""
        if not isinstance(self.target, GPFunctions):
            raise ConfigError("FunctionalPrior.wrong: only a GPFunctions target can be stretched.")
        return replace(self, target=self.target.stretched(factor), values=())

    def weight_prior(self, network: FlatNetwork, *, seed: int = 0) -> WeightPrior:
        """The distribution over this network's weights: the control arm's, the start of matching, or what it found.

        Raises:
            ConfigError: `values` belong to another network.
        """
        scaled = self.matched if self.fan_in is None else self.fan_in
        start = None if self.matched else 1.0
        found: WeightPrior
        if self.family == "hierarchical":
            found = HierarchicalLayers(network, shape=start, rate=start, fan_in=scaled)
        elif self.family == "flow" and self.matched:
            directions = torch_stream(seed, "flow")
            found = FlowLayers(network, n_steps=self.n_flow_steps, rank=self.rank, fan_in=scaled, generator=directions)
        else:
            found = GaussianLayers(network, sd=start, fan_in=scaled)
        if self.values:
            n = sum(parameter.numel() for parameter in found.parameters())
            if n != len(self.values):
                raise ConfigError(
                    f"FunctionalPrior: it carries {len(self.values)} values, this network's prior has {n}.",
                    hint="Call match(network, X) for this network.",
                )
            vector_to_parameters(torch.tensor(self.values), found.parameters())
        return found.requires_grad_(False)

    def match(
        self,
        network: nn.Module | FlatNetwork,
        X: Tensor | Measurement,
        settings: MatchSettings | None = None,
        *,
        random_state: int = 0,
        reporter: Reporter | None = None,
        history: list[float] | None = None,
    ) -> FunctionalPrior:
        """Tune the weights' prior so that the network's functions look like the target's; needs no labels.

        Args:
            network: whose prior; a plain module or a `FlatNetwork`.
            X: rows (n, d) on the scale the network will see, or a `Measurement`.
            settings: sizes and steps.
            random_state: seed of draws and critics.
            reporter: told after every outer step.
            history: receives the critic's objective of every outer step. It is noisy and no measure of success.

        Returns:
            The same prior with `values`. The control arm returns itself.
        """
        if not self.matched:
            return self
        flat = network if isinstance(network, FlatNetwork) else FlatNetwork(network)
        rows = X if isinstance(X, Measurement) else Measurement.of_rows(torch.as_tensor(X, dtype=torch.float32))
        prior = self.weight_prior(flat, seed=random_state).to(rows.rows.device).requires_grad_(True)
        found = match_weights(
            prior, flat, as_target(self.target), rows, settings or MatchSettings(),
            generator=torch_stream(random_state, "match"), reporter=reporter,
        )  # fmt: skip
        if history is not None:
            history.extend(found)
        values = parameters_to_vector(prior.parameters()).detach().tolist()
        return replace(self, values=tuple(values))

    def sample(
        self,
        n: int,
        *,
        generator: Generator,
        x: Tensor | None = None,
        network: FlatNetwork | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Draw:
        """`n` functions as values at rows, shape (n, m): what the prior believes.

        Before `match` that is the target itself; the control arm and a matched prior draw weights of a network.

        Args:
            n: number of functions.
            generator: source of randomness.
            x: rows; by default the target's grid.
            network: whose functions; by default a tanh perceptron of three layers of 50 units.
            device, dtype: of the values.
        """
        check_int("FunctionalPrior", "n", n, low=1)
        target = as_target(self.target)
        if self.matched and not self.values:
            return target.sample(n, generator=generator, x=x, device=device, dtype=dtype)
        rows = (target.grid() if x is None else x).to(torch.float32)
        if network is None:
            network = FlatNetwork(mlp(rows.shape[1], 1, SHOWN))
        with torch.no_grad():
            weights = self.weight_prior(network).draw(n, generator)
            values = network(weights, rows.to(weights.device))[..., 0]
        return Draw(values.to(device or generator.device, dtype or torch.float32))

    def describe(self) -> str:
        """One line for people."""
        if not self.matched:
            return f"weights of family {self.family} as usually written, N(0, 1) or InvGamma(1, 1)"
        state = "matched to" if self.values else "to be matched to"
        return f"weights of family {self.family}, {state} {self.target}"

    def picture(self, n: int, *, generator: Generator) -> Lines:
        """Functions it believes in."""
        rows = as_target(self.target).grid(120)
        values = self.sample(n, x=rows, generator=generator).value.numpy()
        names = {f"draw {number + 1}": row for number, row in enumerate(values)}
        what = "matched to its target" if self.matched else "control arm, N(0, 1) weights"
        return Lines(rows[:, 0].numpy(), names, "x", "f(x)", f"functions of the prior: {what}")

    @classmethod
    def examples(cls) -> list[Prior]:
        return [cls(), cls(GPFunctions(0.6), "hierarchical"), cls(GPFunctions(1.0), "flow", rank=2)]
