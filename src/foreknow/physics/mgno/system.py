"""The system `mgno`: a regressor from fields to fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields as fields_of
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from foreknow.common.deps import available
from foreknow.common.errors import CapabilityError, ConfigError, InputError
from foreknow.common.progress import ProgressCallback
from foreknow.common.rng import seeded_init
from foreknow.common.validate import as_array, check_bool, check_int, check_option, check_real
from foreknow.core.evidence import Evidence
from foreknow.core.pictures import Lines, Picture
from foreknow.core.prior import Prior
from foreknow.core.registry import register
from foreknow.core.source import ExampleSource, Sample
from foreknow.core.system import Applied, Example, State, System, Tags
from foreknow.physics.mgno import files
from foreknow.physics.mgno.baselines import FNO_LR, FNORegressor, MeanField, PCARidge
from foreknow.physics.mgno.card import CARD
from foreknow.physics.mgno.losses import LOSSES, least_norm
from foreknow.physics.mgno.network import NORMS, PADDING, MgNO, smoothing_pairs
from foreknow.physics.mgno.presets import PRESETS, Configuration
from foreknow.physics.mgno.prior import MultigridPrior
from foreknow.physics.mgno.training import NORMALISERS, Course, FieldModel, Normaliser, fit_fields

Array = NDArray[np.float64]


@register(CARD)
class OperatorRegressor(System):
    """Learns the map from a field to the solution of a partial differential equation, from pairs; square grids.

    Settings left at None are as the preset says.

    Args:
        prior: a `MultigridPrior`, "paper" (a grid for every entry of `smoothing`), "off" (the finest grid only) or
            "wrong" (the nodes of the coarser grids change places).
        preset: a key of `PRESETS`: "small", or a published configuration.
        boundary: "dirichlet", "periodic" or "neumann": what convolutions see outside the grid.
        smoothing: numbers of smoothings, or pairs (before, after), one a level from the finest to the coarsest.
        channels: channels inside the network.
        layers: layers of the network.
        residual_restriction: restrict f - A u as classical multigrid does, in place of f.
        norm: after each prolongation: "none", "layer" or "group".
        add_input: add the input to the output, for steps in time.
        normalise_x: "none", "gaussian" (per channel) or "pointwise" (per node).
        normalise_y: the same for the output; learnt from training pairs only.
        loss: "h1", "l2" or "h1-differences".
        lr: highest learning rate.
        epochs: passes over the data.
        batch_size: pairs a step.
        validation_fraction: of the pairs, held out to choose the best epoch by its relative L2 error.
        random_state: seed of the weights, the split and the batches.
        device: where to compute.

    Example:
        >>> from foreknow.data.pde.fields import darcy
        >>> data = darcy(8, 9)
        >>> op = OperatorRegressor(smoothing=(1, 1, 2), channels=4, layers=1, epochs=2, random_state=0)
        >>> op.fit(data.X, data.y).predict(data.X[:2]).shape
        (2, 1, 9, 9)

    References:
        he2024mgno.
    """

    tags = Tags(row_order_invariant=False)

    def __init__(
        self,
        prior: Prior | str = "paper",
        *,
        preset: str = "small",
        boundary: str | None = None,
        smoothing: Sequence[int | Sequence[int]] | None = None,
        channels: int | None = None,
        layers: int | None = None,
        residual_restriction: bool | None = None,
        norm: str | None = None,
        add_input: bool | None = None,
        normalise_x: str | None = None,
        normalise_y: str | None = None,
        loss: str | None = None,
        lr: float | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        validation_fraction: float | None = None,
        random_state: int | None = None,
        device: str = "auto",
    ) -> None:
        self.prior = prior
        self.preset = preset
        self.boundary = boundary
        self.smoothing = smoothing
        self.channels = channels
        self.layers = layers
        self.residual_restriction = residual_restriction
        self.norm = norm
        self.add_input = add_input
        self.normalise_x = normalise_x
        self.normalise_y = normalise_y
        self.loss = loss
        self.lr = lr
        self.epochs = epochs
        self.batch_size = batch_size
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.device = device

    # Results -------------------------------------------------------------------------------------------------

    @property
    def network_(self) -> MgNO:
        """The trained network, a plain module between normalised fields."""
        self._check_fitted()
        assert isinstance(self.model_.network, MgNO)
        return self.model_.network

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: None = None) -> dict[str, float]:
        """Mean relative errors on pairs of fields: "l2", "h1" (by Fourier transform) and "h1-differences"."""
        return dict(self.losses(self, Sample(X, y)))

    def rollout(self, X: ArrayLike, n_steps: int) -> Array:
        """States that follow when the network is applied to its own output again and again.

        Args:
            X: first states, shape (n, C, H, W).
            n_steps: how many steps, at least 1.

        Returns:
            Shape (n, n_steps, C, H, W), the first state left out.

        Raises:
            CapabilityError: inputs and outputs have different numbers of channels.
        """
        check_int("OperatorRegressor.rollout", "n_steps", n_steps, low=1)
        state = self._read_new(X)
        if self.network_.settings["in_channels"] != self.network_.settings["out_channels"]:
            raise CapabilityError(
                "OperatorRegressor: only a network whose output has the channels of its input can be applied again."
            )
        states = []
        for _ in range(n_steps):
            state = self._predict(state)
            states.append(state)
        return np.stack(states, axis=1)

    def losses(self, model: Any, test: Sample) -> Mapping[str, float]:
        predicted, truth = (
            torch.as_tensor(np.ascontiguousarray(v, dtype=np.float64)) for v in (model.predict(test.X), test.y)
        )
        if predicted.shape != truth.shape:
            raise InputError(
                f"OperatorRegressor: predicted fields have shape {tuple(predicted.shape)}, y {tuple(truth.shape)}."
            )
        floor = least_norm(truth)
        return {name: float(LOSSES[name](predicted, truth, floor).mean()) for name in ("l2", "h1", "h1-differences")}

    def pictures(self) -> Mapping[str, Picture]:
        """How the error of held-out fields fell."""
        self._check_fitted()
        errors = self.course_.validation
        if not errors:
            return {}
        epochs = np.arange(1, len(errors) + 1)
        return {
            "validation": Lines(
                epochs,
                {"held-out fields": np.array(errors)},
                x_label="epoch",
                y_label="relative L2 error",
                title="Error of held-out fields",
                log_y=True,
            )
        }

    # Hooks ---------------------------------------------------------------------------------------------------

    def _configuration(self) -> Configuration:
        """The preset with the settings that were given."""
        check_option("OperatorRegressor", "preset", self.preset, tuple(PRESETS))
        given = {
            part.name: getattr(self, part.name)
            for part in fields_of(Configuration)
            if getattr(self, part.name, None) is not None
        }
        return replace(PRESETS[self.preset], **given)

    def _check_settings(self) -> None:
        owner, settings = "OperatorRegressor", self._configuration()
        smoothing_pairs(settings.smoothing)
        for name in ("channels", "layers", "epochs", "batch_size"):
            check_int(owner, name, getattr(settings, name), low=1)
        for name in ("residual_restriction", "add_input"):
            check_bool(owner, name, getattr(settings, name))
        check_option(owner, "boundary", settings.boundary, tuple(PADDING))
        check_option(owner, "norm", settings.norm, NORMS)
        check_option(owner, "loss", settings.loss, tuple(LOSSES))
        check_option(owner, "normalise_x", settings.normalise_x, NORMALISERS)
        check_option(owner, "normalise_y", settings.normalise_y, NORMALISERS)
        check_real(owner, "lr", settings.lr, low=0, open_low=True)
        check_real(owner, "validation_fraction", settings.validation_fraction, low=0, high=0.9)
        prior = self._resolve_prior()
        if not isinstance(prior, MultigridPrior):
            raise ConfigError(f"{owner}: the prior must be a MultigridPrior, got {type(prior).__name__}.")

    def _task(self) -> str:
        return "array"

    def _read_X(self, X: object, *, fitting: bool) -> Any:
        fields = as_array("OperatorRegressor", X, axes=(4,))
        if fields.shape[2] != fields.shape[3]:
            raise InputError(
                f"OperatorRegressor: fields must be square, (n, C, H, H), got shape {fields.shape}.",
                hint="Resample them onto a square grid.",
            )
        if not fitting and self.row_shape_ == (fields.shape[1],):
            self._check_resolution(fields.shape[2:])
        return fields

    def _row_shape(self, rows: Any) -> tuple[int, ...] | None:
        return (int(rows.shape[1]),)  # other resolutions may be predicted

    def _paper_prior(self) -> Prior:
        return MultigridPrior(levels=len(smoothing_pairs(self._configuration().smoothing)))

    def _wrong_prior(self) -> Prior:
        return replace(self._paper_prior(), shuffled=True)  # type: ignore[type-var]

    def _fit(self, X: Any, y: NDArray[Any] | None) -> None:
        assert y is not None
        if y.ndim != 4 or y.shape[2:] != X.shape[2:]:
            raise InputError(
                f"OperatorRegressor: y must have shape (n, C, H, W) on the grid of X, {X.shape[2:]}, got {y.shape}."
            )
        settings = self._configuration()
        if settings.loss == "h1-differences" and X.shape[2] < 3:
            raise InputError("OperatorRegressor: differences need 3 nodes a side.")
        self.model_ = self._build(settings, X.shape[1:], y.shape[1:])
        self.course_ = fit_fields(
            self.model_, X, y, settings.fitting(), seed=self.seed_, device=self.device_, tell=self._tell
        )
        self.model_.eval()

    def _build(self, settings: Configuration, x_shape: tuple[int, ...], y_shape: tuple[int, ...]) -> FieldModel:
        assert isinstance(self.prior_, MultigridPrior)
        with seeded_init(self.seed_):
            plain = MgNO(
                x_shape[0],
                y_shape[0],
                grid=x_shape[1],
                levels=1,
                **{
                    name: getattr(settings, name)
                    for name in (
                        "channels", "layers", "smoothing", "boundary", "residual_restriction", "bias", "norm",
                        "grow_channels", "skip", "add_input",
                    )
                },
            )  # fmt: skip
        network = self.prior_.wire(plain)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # quicker, by a fifth
        return FieldModel(network, Normaliser(settings.normalise_x, x_shape), Normaliser(settings.normalise_y, y_shape))

    def _predict(self, X: Any) -> NDArray[Any]:
        found = self.model_.predict(X)
        if not np.isfinite(found).all():
            raise InputError(
                f"OperatorRegressor: fields of size {np.abs(X).max():.3g} are too large for what it computes with.",
                hint="Bring them to the size of the training fields, or fit with normalise_x='gaussian'.",
            )
        return found

    def _check_resolution(self, size: tuple[int, ...]) -> None:
        self.network_.check_size(size)
        pointwise = "pointwise" in (self.model_.inputs.kind, self.model_.outputs.kind)
        if pointwise and size[0] != self.network_.settings["grid"]:
            raise InputError(
                f"OperatorRegressor: pointwise normalisation is tied to {self.network_.settings['grid']} nodes a side, "
                f"got {size[0]}.",
                hint="Fit with normalise_x='gaussian' and normalise_y='gaussian' to predict on other grids.",
            )

    def _state(self) -> State:
        network = self.network_.settings
        meta = {
            "channels": [network["in_channels"], network["out_channels"]],
            "grid": network["grid"],
            "validation": list(self.course_.validation),
            "best_epoch": self.course_.best_epoch,
            "n_train": self.course_.n_train,
        }
        return State(dict(self.model_.state_dict()), meta, contains_rows=False)

    def _restore(self, state: State) -> None:
        c_in, c_out = (int(c) for c in state.meta["channels"])
        sides = (int(state.meta["grid"]),) * 2
        self.model_ = self._build(self._configuration(), (c_in, *sides), (c_out, *sides))
        self.model_.load_state_dict(dict(state.tensors))
        self.model_.to(self.device_).eval()
        validation = tuple(float(error) for error in state.meta["validation"])
        self.course_ = Course(validation, int(state.meta["best_epoch"]), int(state.meta["n_train"]))

    @classmethod
    def examples(cls) -> list[Example]:
        from foreknow.data.pde.fields import darcy, diffusion

        tiny = {"channels": 4, "layers": 2, "epochs": 2, "batch_size": 4, "random_state": 0}
        flow, heat = darcy(10, 9), diffusion(10, 8)
        named = {"preset": "navier-stokes", "smoothing": (1, (1, 1), 2), "norm": "group"}
        return [
            Example("flow", {"smoothing": (1, 1, 2), **tiny}, flow.X[:7], flow.y[:7], flow.X[7:]),
            Example("heat on a ring", {**named, **tiny}, heat.X[:7], heat.y[:7], heat.X[7:]),
            Example(
                "a classical start",
                {
                    "prior": MultigridPrior(2, initial="poisson"), "smoothing": (1, 2), "boundary": "neumann",
                    "residual_restriction": True, "normalise_y": "pointwise", "loss": "l2", **tiny,
                },
                flow.X[:7], flow.y[:7], flow.X[7:],
            ),
        ]  # fmt: skip

    @classmethod
    def prove(cls, *, preset: str = "small", seeds: int = 3, progress: ProgressCallback | None = None) -> Evidence:
        """Darcy's flow with all arms, and heat on a ring with the right and the wrong padding."""
        from foreknow.physics.mgno.proof import prove

        return prove(preset=preset, seeds=seeds, progress=progress)

    @classmethod
    def priced_as(cls, task: str) -> System:
        return cls(smoothing=(1, 1, 1, 1, 2), epochs=20)

    @classmethod
    def priced_on(cls, task: str) -> Mapping[str, Any]:
        from foreknow.data.pde.fields import darcy

        flow = darcy(612, 33)
        return {"darcy 33x33": ExampleSource("darcy 33x33", flow.X, flow.y, unit="fields", n_test=100, n_min=8)}

    def plain_baselines(self) -> Mapping[str, Callable[[int], Any]]:
        fitting = replace(self._configuration().fitting(), lr=FNO_LR)
        found: dict[str, Callable[[int], Any]] = {
            "PCA ridge": lambda seed: PCARidge(),
            "FNO": lambda seed: FNORegressor(fitting, random_state=seed, device=self.device),
            "mean field": lambda seed: MeanField(),
        }
        if available("neuralop"):
            found["FNO of neuraloperator"] = lambda seed: FNORegressor(
                fitting, library="neuralop", random_state=seed, device=self.device
            )
        return found

    @classmethod
    def read_files(cls, paths: Sequence[Path], options: Mapping[str, str]) -> Sample:
        return files.read_sample(paths, options, need_outputs=True)

    def apply_files(
        self, inputs: Sequence[str], out: Path, options: Mapping[str, str], progress: ProgressCallback | None = None
    ) -> Applied:
        return files.apply(self, [Path(name) for name in inputs], out, options, progress)
