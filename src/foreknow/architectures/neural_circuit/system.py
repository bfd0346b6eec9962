"""The system `neural-circuit`: a controller of a chain of joints, trained by acting."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from foreknow.architectures.neural_circuit.baselines import EpisodeSource, RandomTorque, SineWave
from foreknow.architectures.neural_circuit.card import CARD
from foreknow.architectures.neural_circuit.policy import CircuitPolicy, NetworkPolicy, Policy
from foreknow.architectures.neural_circuit.prior import CircuitPrior, PlainNetwork
from foreknow.architectures.neural_circuit.swimmer import TASKS, SwimmerWorld
from foreknow.architectures.neural_circuit.training import get_weights, returns, set_weights, train_with_es
from foreknow.common.errors import CapabilityError, ConfigError, InputError
from foreknow.common.progress import ProgressCallback
from foreknow.common.validate import as_matrix, check_int, check_known, check_option, check_real
from foreknow.core.evidence import Evidence
from foreknow.core.pictures import Lines, Picture
from foreknow.core.prior import Prior
from foreknow.core.registry import register
from foreknow.core.source import Sample
from foreknow.core.system import Applied, Example, State, System, Tags
from foreknow.core.world import Act, World
from foreknow.train.es import ESSettings
from foreknow.train.worlds import as_world

METHODS = ("es", "ppo", "none")


@register(CARD)
class CircuitController(System):
    """A controller of a swimming chain that swims before it is trained, with four weights one can read.

    `fit` trains in a world: None or "swimmer" is dm_control's swimmer; or bring a `World`, or an environment of
    gymnasium or dm_control, whose actions are torques of joints. `predict` maps rows of observations, the last column
    the number of the step in its episode, to actions.

    Args:
        prior: a `CircuitPrior`, "paper", "off" (a network of two layers of 64) or "wrong" (the circuit with its
            proprioception permuted).
        n_links: of the swimmer, one more than its joints.
        task: of the swimmer, "swim" or "navigate" (to a target; the circuit then has its turn and speed commands).
        n_steps: longest episode, of the swimmer and of environments that do not say.
        method: "es" (evolution strategies), "ppo" or "none" (the first weights).
        episodes: of training.
        population, sigma, lr, weight_decay: of evolution strategies, see `ESSettings`.
        joint_columns: columns of the observations with the angles of the joints, head first; the first ones if None.
        joint_limit: the angle in radians at which a joint counts as fully bent; 2 pi / (n_joints + 1) if None.
        target_columns: two columns with the vector to a target, which the commands follow; of the swimmer known.
        random_state: of first weights, perturbations and starts of episodes.
        device: where `predict` computes.

    Example:
        >>> from foreknow.architectures import CircuitController
        >>> controller = CircuitController(n_links=6, method="none").fit("swimmer")
        >>> sorted(controller.weights())
        ['contra', 'ipsi', 'osc', 'prop']

    References:
        bhattasali2022neural.
    """

    tags = Tags(learns_from="world", row_order_invariant=False)
    fit_inputs: ClassVar[tuple[str, ...]] = ("episodes",)

    def __init__(
        self,
        prior: Prior | str = "paper",
        *,
        n_links: int = 6,
        task: str = "swim",
        n_steps: int = 1000,
        method: str = "es",
        episodes: int = 60,
        population: int = 10,
        sigma: float = 0.1,
        lr: float = 0.1,
        weight_decay: float = 0.005,
        joint_columns: Sequence[int] | None = None,
        joint_limit: float | None = None,
        target_columns: Sequence[int] | None = None,
        random_state: int | None = None,
        device: str = "auto",
    ) -> None:
        self.prior = prior
        self.n_links = n_links
        self.task = task
        self.n_steps = n_steps
        self.method = method
        self.episodes = episodes
        self.population = population
        self.sigma = sigma
        self.lr = lr
        self.weight_decay = weight_decay
        self.joint_columns = joint_columns
        self.joint_limit = joint_limit
        self.target_columns = target_columns
        self.random_state = random_state
        self.device = device

    # Results -------------------------------------------------------------------------------------------------

    def policy(self, n_links: int | None = None) -> Policy:
        """The controller as a plain module, `policy(obs, t)`.

        Args:
            n_links: of another swimmer that it should move; by default the body it was fitted to.

        Raises:
            NotFittedError: before `fit`.
            CapabilityError: the controller fits one body only.
        """
        self._check_fitted()
        policy = self._build(self.weights_.device)
        set_weights(policy, self.weights_)
        if isinstance(policy, NetworkPolicy):
            policy.standardise(self.mean_, self.sd_)
        if n_links is None or n_links - 1 == self.n_actions_:
            return policy
        if not isinstance(policy, CircuitPolicy):
            raise CapabilityError(
                f"CircuitController: a network fits the body it was trained on, with {self.n_actions_} joints.",
                hint="Only a circuit with shared weights fits other bodies.",
            )
        return policy.for_body(check_int("CircuitController", "n_links", n_links, low=3) - 1)

    def act(self, n_links: int | None = None) -> Act:
        """The same as a function of one observation and step number, for `run_episode`."""
        return self.policy(n_links).cpu().act()

    def weights(self) -> dict[str, float]:
        """The circuit's weights by name.

        Raises:
            CapabilityError: without its prior there is no circuit.
        """
        policy = self.policy()
        if isinstance(policy, CircuitPolicy):
            return policy.named_weights()
        raise CapabilityError("CircuitController: a network's weights have no names.", hint="Use policy().")

    # Hooks ---------------------------------------------------------------------------------------------------

    def _check_settings(self) -> None:
        owner = "CircuitController"
        check_int(owner, "n_links", self.n_links, low=3)
        check_option(owner, "task", self.task, TASKS)
        check_int(owner, "n_steps", self.n_steps, low=1)
        check_option(owner, "method", self.method, METHODS)
        check_int(owner, "episodes", self.episodes, low=0)
        ESSettings(self.population, self.sigma, self.lr, self.weight_decay)
        if self.joint_limit is not None:
            check_real(owner, "joint_limit", self.joint_limit, low=0, open_low=True)
        prior = self._resolve_prior()
        if not isinstance(prior, CircuitPrior | PlainNetwork):
            raise ConfigError(f"{owner}: the prior must be a CircuitPrior or its off(), got {type(prior).__name__}.")

    def _task(self) -> str:
        return "array"

    def _read_X(self, X: object, *, fitting: bool) -> Any:
        if not fitting:
            return as_matrix("CircuitController", X)
        if X is None or (isinstance(X, str) and X == "swimmer"):
            return SwimmerWorld(self.n_links, task=self.task, n_steps=self.n_steps)
        return as_world(X, n_steps=self.n_steps)

    def _row_shape(self, rows: Any) -> tuple[int, ...]:
        return tuple(rows.shape[1:]) if isinstance(rows, np.ndarray) else (rows.n_observations + 1,)

    def _paper_prior(self) -> CircuitPrior:
        return CircuitPrior(speed=True, n_turn=1) if self.task == "navigate" else CircuitPrior()

    def _wrong_prior(self) -> Prior:
        return replace(self._paper_prior(), wiring="permuted")

    def _fit(self, X: World, y: NDArray[Any] | None, episodes: int | None = None) -> None:
        self.n_observations_, self.n_actions_ = X.n_observations, X.n_actions
        self.task_ = X.task if isinstance(X, SwimmerWorld) else None
        self.targets_ = self.target_columns
        if isinstance(X, SwimmerWorld) and X.task == "navigate" and self.target_columns is None:
            self.targets_ = (X.n_actions, X.n_actions + 1)
        n = self.episodes if episodes is None else check_int("CircuitController.fit", "episodes", episodes, low=0)
        self.n_episodes_ = 0 if self.method == "none" else n
        policy, total = self._build("cpu"), float(max(self.n_episodes_, 1))

        def note(done: int, latest: float) -> None:
            self._tell(done, total, f"return {latest:.0f}")

        self._tell(0, total)
        curve: list[tuple[int, float]] = []
        if self.method == "es":
            settings = ESSettings(self.population, self.sigma, self.lr, self.weight_decay)
            curve = train_with_es(policy, X, self.n_episodes_, settings, seed=self.seed_, note=note)
        elif self.method == "ppo":
            from foreknow.architectures.neural_circuit.ppo import train_with_ppo

            curve = train_with_ppo(policy, X, self.n_episodes_, seed=self.seed_, note=note)
        self.curve_ = curve
        self.weights_ = torch.as_tensor(get_weights(policy)).to(self.device_)
        if isinstance(policy, NetworkPolicy):
            self.mean_, self.sd_ = policy.mean.to(self.device_), policy.sd.to(self.device_)

    def _build(self, device: torch.device | str) -> Policy:
        """The policy with its first weights."""
        generator = self._stream("weights")
        if isinstance(self.prior_, CircuitPrior):
            return self.prior_.policy(
                self.n_actions_,
                generator=generator,
                joint_columns=self.joint_columns,
                joint_limit=self.joint_limit,
                target_columns=self.targets_,
            ).to(device)
        assert isinstance(self.prior_, PlainNetwork)  # _check_settings saw to it
        return self.prior_.policy(self.n_observations_, self.n_actions_, generator=generator).to(device)

    def _predict(self, X: Any) -> NDArray[Any]:
        rows = torch.as_tensor(X, device=self.device_)
        with torch.no_grad():
            return np.asarray(self.policy()(rows[:, :-1], rows[:, -1]).cpu().numpy())

    def _state(self) -> State:
        tensors = {"weights": self.weights_}
        if isinstance(self.prior_, PlainNetwork):
            tensors |= {"mean": self.mean_, "sd": self.sd_}
        meta = {
            "n_observations": self.n_observations_,
            "n_actions": self.n_actions_,
            "n_episodes": self.n_episodes_,
            "task": self.task_,
            "targets": None if self.targets_ is None else list(self.targets_),
            "curve": [list(point) for point in self.curve_],
        }
        return State(tensors, meta, contains_rows=False)

    def _restore(self, state: State) -> None:
        meta = state.meta
        self.n_observations_, self.n_actions_ = int(meta["n_observations"]), int(meta["n_actions"])
        self.n_episodes_ = int(meta["n_episodes"])
        # Files of before the task was kept say only whether the world was the swimmer.
        self.task_ = meta["task"] if "task" in meta else self.task if meta["swims"] else None
        self.targets_ = None if meta["targets"] is None else tuple(meta["targets"])
        self.curve_ = [(int(done), float(mean)) for done, mean in meta["curve"]]
        self.weights_ = state.tensors["weights"].to(self.device_)
        if isinstance(self.prior_, PlainNetwork):
            self.mean_, self.sd_ = (state.tensors[name].to(self.device_) for name in ("mean", "sd"))
        self.policy()

    # Price and proof -----------------------------------------------------------------------------------------

    def losses(self, model: Any, test: Sample) -> Mapping[str, float]:
        """Minus the mean return over the test's starts."""
        return {"negative return": -float(returns(test.X, model.act(), test.named["starts"]).mean())}

    def plain_baselines(self) -> Mapping[str, Callable[[int], Any]]:
        """An open-loop sine wave tuned with as many episodes, and random torques."""
        return {"tuned sine": SineWave, "random torque": RandomTorque}

    @classmethod
    def priced_on(cls, task: str) -> Mapping[str, Any]:
        """The swimmer with 6 links; sizes are episodes."""
        return {"swimmer with 6 links": EpisodeSource("swimmer with 6 links", SwimmerWorld())}

    @classmethod
    def priced_as(cls, task: str) -> CircuitController:
        """The defaults: evolution strategies, as many episodes as the size says."""
        return cls()

    @classmethod
    def prove(cls, *, preset: str = "small", seeds: int = 5, progress: ProgressCallback | None = None) -> Evidence:
        """Small proof: returns before and during 60 episodes, of the circuit, its ablations and plain controllers."""
        from foreknow.architectures.neural_circuit.proof import prove

        return prove(preset=preset, seeds=seeds, progress=progress)

    # Files and pictures --------------------------------------------------------------------------------------

    @classmethod
    def read_files(cls, paths: Sequence[Path], options: Mapping[str, str]) -> Sample:
        """Nothing is read: `foreknow fit` trains in the swimmer that the settings describe."""
        check_known("foreknow fit neural-circuit", options, (), what="option")
        if paths:
            raise InputError(
                f"foreknow fit neural-circuit: it trains in a world and reads no files, got {paths[0].name!r}.",
                hint="A world of your own goes to CircuitController().fit(world) in Python.",
            )
        return Sample(None)

    def apply_files(
        self, inputs: Sequence[str], out: Path, options: Mapping[str, str], progress: ProgressCallback | None = None
    ) -> Applied:
        """Swim: a moving picture, the return, and a table of angles and torques.

        Args:
            inputs: none.
            out: folder for `motion.csv`.
            options: links (of the body; that of training), seconds (15), seed (of the start, 0).
            progress: told how far it is.
        """
        from foreknow.architectures.neural_circuit.files import swim

        if inputs:
            raise InputError(f"foreknow apply: a swimmer reads no files, got {inputs[0]!r}.", hint="Use --with.")
        return swim(self, out, options, progress)

    def pictures(self) -> Mapping[str, Picture]:
        """The returns of training."""
        if not self.curve_:
            return {}
        episodes, means = np.array(self.curve_).T
        return {"returns": Lines(episodes, {"mean return": means}, "episodes", "return", "Training")}

    @classmethod
    def examples(cls) -> list[Example]:
        rng = np.random.default_rng(0)

        def rows(n: int, width: int) -> NDArray[np.float64]:
            return np.column_stack([0.5 * rng.standard_normal((n, width)), rng.integers(0, 200, n)])

        short = {"n_steps": 12, "episodes": 4, "population": 4, "random_state": 0}
        free = CircuitPrior(sharing=False, sign=False, init="uniform")
        return [
            Example("swim", {**short, "n_links": 4}, None, X_new=rows(7, 15)),
            Example("navigate", {**short, "n_links": 3, "task": "navigate"}, "swimmer", X_new=rows(5, 13)),
            Example("free weights", {**short, "prior": free}, SwimmerWorld(3, n_steps=10), X_new=rows(5, 11)),
        ]
