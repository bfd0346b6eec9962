"""The system `learned-proximal`: a network that is a proximal map, learnt from clean images, for any operator."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from foreknow.common.errors import CheckpointError, ConfigError, ForeknowWarning, InputError
from foreknow.common.progress import ProgressCallback
from foreknow.common.rng import numpy_stream, seed_of, seeded_init
from foreknow.common.validate import as_array, check_int, check_known, check_option, check_real
from foreknow.core.evidence import Evidence
from foreknow.core.pictures import Picture
from foreknow.core.prior import Prior
from foreknow.core.records import from_json, to_json
from foreknow.core.registry import register
from foreknow.core.source import Sample
from foreknow.core.system import Applied, Example, State, System, Tags
from foreknow.nn.inverse import SOLVERS, Certificate, PatchAverage, largest_slope
from foreknow.signals.learned_proximal import training
from foreknow.signals.learned_proximal.adapters import LearnedPrior, ProximalDenoiser
from foreknow.signals.learned_proximal.card import CARD
from foreknow.signals.learned_proximal.network import (
    LARGE,
    LARGEST_SMALL,
    SMALL,
    VECTOR,
    Architecture,
    GradientOfConvex,
    build_network,
)
from foreknow.signals.learned_proximal.prior import ProximalPrior
from foreknow.signals.learned_proximal.reading import invert

_OWNER = "LearnedProximal"
_CHUNK = 256
"""Rows that go through the network at once."""
_LOWEST, _HIGHEST = -2.0, 3.0
"""Noisy images may leave [0, 1]; beyond these they have another unit."""
_LARGEST = 1e6
"""Of the numbers of a vector, in units of sigma."""
_INVERTED = 1e-3
"""Relative residual up to which an image counts as in the range of the network."""


@dataclass(frozen=True)
class ReadingInfo:
    """How the prior was read.

    Args:
        inversion_residual: ||f(y) - x|| / (1 + ||x||) of each row, shape (n,); large where x is outside the range.
        penalty: R of each row up to one constant, shape (n,); the log density is minus this over sigma^2.
        inverse: y = f^-1(x), shape of the rows.
        n_iterations: Newton steps.
    """

    inversion_residual: NDArray[np.float64]
    penalty: NDArray[np.float64]
    inverse: NDArray[np.float64]
    n_iterations: int


@register(CARD)
class LearnedProximal(System):
    """Learns what clean images look like, and uses it to denoise, reconstruct and judge others.

    `transform` is the proximal map f, the denoiser. `reconstruct` inverts any linear operator with f as its prior, and
    certifies that it converged. `log_prior` reads the log density of an image, up to a constant.

    Args:
        prior: a `ProximalPrior`, "paper", "off" (squared error instead of proximal matching) or "wrong" (learnt from
            images with shuffled pixels).
        network: "small" is published for 28 x 28 pixels, "large" for 128 x 128, "mlp" is for vectors; "auto" takes
            "mlp" for vectors, "small" up to 48 pixels a side, else "large".
        hidden: units or channels of the hidden layers; None takes the published number.
        beta: sharpness of softplus; None takes the published one.
        alpha: weight of ||x||^2 in the potential; None takes the published one.
        sigma: standard deviation of the training noise, in the units of the rows.
        gamma: last width of proximal matching on images, times the square root of the numbers in an image.
        n_steps: optimizer steps, half of them by the absolute error.
        batch_size: rows a step; None takes the published 200 (64 for "large", 2000 for vectors).
        lr: first learning rate.
        random_state: seed.
        device: where to compute.

    Example:
        >>> import numpy as np
        >>> rows = np.random.default_rng(0).laplace(size=(500, 1))
        >>> model = LearnedProximal(sigma=1.0, n_steps=44, batch_size=100, random_state=0).fit(rows)
        >>> model.transform(np.array([[2.0]])).shape
        (1, 1)

    References:
        fang2024whats.
    """

    tags = Tags(transforms=True, row_order_invariant=False)
    network_: GradientOfConvex

    def __init__(
        self,
        prior: Prior | str = "paper",
        *,
        network: str = "auto",
        hidden: int | None = None,
        beta: float | None = None,
        alpha: float | None = None,
        sigma: float = 0.1,
        gamma: float = 0.08,
        n_steps: int = 40_000,
        batch_size: int | None = None,
        lr: float = 1e-3,
        random_state: int | None = None,
        device: str = "auto",
    ) -> None:
        self.prior = prior
        self.network = network
        self.hidden = hidden
        self.beta = beta
        self.alpha = alpha
        self.sigma = sigma
        self.gamma = gamma
        self.n_steps = n_steps
        self.batch_size = batch_size
        self.lr = lr
        self.random_state = random_state
        self.device = device

    # Results -------------------------------------------------------------------------------------------------

    def denoise(self, images: ArrayLike) -> NDArray[np.float32]:
        """The proximal map of images of the fitted size; of larger ones, its average over patches at half a patch.

        Args:
            images: shape (n, C, H, W), or (n, d).
        """
        self._check_fitted()
        rows = self._checked(images)
        return self._through(self._denoiser(rows.shape[1:]), rows)

    def reconstruct(
        self, y: ArrayLike | Tensor, physics: Any, *, solver: str = "admm", return_info: bool = False,
        progress: ProgressCallback | None = None, **options: Any,
    ) -> Any:  # fmt: skip
        """Images from measurements y = A x + noise.

        Args:
            y: measurements, first axis the batch.
            physics: of `foreknow.nn.inverse`, or anything with `A`, `A_adjoint` and `prox_l2` (deepinv's operators).
            solver: "admm", "pgd" or "hqs".
            return_info: whether the certificate is returned too.
            progress: told of finished iterations.
            options: of the solver: `rho` and `scale` (admm, hqs), `step_size` (pgd), `n_iterations`, `tolerance`,
                `start`; see `foreknow.nn.inverse.admm`.

        Returns:
            The images as an array, and with `return_info` a `Certificate`, whose Lipschitz estimate is None where the
            network was averaged over patches: nothing is guaranteed there.
        """
        self._check_fitted()
        solve: Any = SOLVERS[check_option(_OWNER, "solver", solver, tuple(SOLVERS))]
        allowed = ("n_iterations", "start", "tolerance", *(("step_size",) if solver == "pgd" else ("rho", "scale")))
        check_known(f"{_OWNER}.reconstruct", options, allowed, what="option")
        given = as_array(_OWNER, y.detach().cpu().numpy() if isinstance(y, Tensor) else y, name="y")
        measured = torch.tensor(np.ascontiguousarray(given), dtype=torch.float32, device=self.device_)
        if isinstance(physics, nn.Module):
            physics = physics.to(self.device_)
        with torch.no_grad():
            shape = tuple(physics.A_adjoint(measured[:1]).shape[1:])
        denoiser = self._denoiser(shape)
        if progress is not None:
            from foreknow.common.progress import Reporter

            reporter = Reporter(progress, options.get("n_iterations", 20))
            options["on_step"] = reporter.advance
        found, certificate = solve(measured, physics, denoiser, **options)
        images = found.cpu().numpy()
        if not return_info:
            return images
        slope = None if isinstance(denoiser, PatchAverage) else largest_slope(denoiser, found[:16])
        return images, Certificate(**{**vars(certificate), "lipschitz": slope})

    def log_prior(self, images: ArrayLike, *, return_info: bool = False) -> Any:
        """Log density of each image up to one constant, in nats: -R(x) / sigma^2; larger is more plausible.

        Compare images by one fitted system only.

        Args:
            images: of the fitted size, shape (n, C, H, W) or (n, d); not to be clipped.
            return_info: whether a `ReadingInfo` is returned too.

        Returns:
            Array of shape (n,), and with `return_info` the information.
        """
        self._check_fitted()
        rows = self._read_new(images)
        found = [invert(self.network_, part.to(self.device_)) for part in torch.split(torch.as_tensor(rows), _CHUNK)]
        residual, penalty, inverse = (
            torch.cat([getattr(part, name) for part in found]).cpu().numpy() for name in ("residual", "penalty", "y")
        )
        if (residual > _INVERTED).any():
            warnings.warn(
                f"{_OWNER}: {int((residual > _INVERTED).sum())} of {len(rows)} images are outside the range of the "
                f"network (residual up to {residual.max():.2g}); their log densities mean nothing.",
                ForeknowWarning,
                stacklevel=2,
            )
        log_p = -penalty / self.sigma**2
        info = ReadingInfo(residual, penalty, inverse, max(part.n_iterations for part in found))
        return (log_p, info) if return_info else log_p

    def as_denoiser(self) -> ProximalDenoiser:
        """The network as deepinv's denoisers are called: `forward(x, sigma)`."""
        self._check_fitted()
        return ProximalDenoiser(self.network_, float(self.sigma))

    def as_prior(self) -> LearnedPrior:
        """R with `fn`, `grad` and `prox`, as deepinv's explicit priors have them."""
        self._check_fitted()
        return LearnedPrior(self.network_)

    # Hooks ---------------------------------------------------------------------------------------------------

    def _check_settings(self) -> None:
        check_option(_OWNER, "network", self.network, ("auto", "large", "mlp", "small"))
        for name in ("hidden", "batch_size"):
            if getattr(self, name) is not None:
                check_int(_OWNER, name, getattr(self, name), low=1)
        for name in ("beta", "alpha"):
            if getattr(self, name) is not None:
                check_real(_OWNER, name, getattr(self, name), low=0.0, open_low=name == "beta")
        for name in ("sigma", "gamma", "lr"):
            check_real(_OWNER, name, getattr(self, name), low=0.0, open_low=True)
        check_int(_OWNER, "n_steps", self.n_steps, low=1)
        prior = self._resolve_prior()
        if not isinstance(prior, ProximalPrior):
            raise ConfigError(f"{_OWNER}: the prior must be a ProximalPrior, got {type(prior).__name__}.")

    def _read_X(self, X: object, *, fitting: bool) -> Any:
        rows = self._checked(X)
        if fitting and rows.ndim == 4 and (rows.min() < 0 or rows.max() > 1):
            raise InputError(
                f"{_OWNER}: images to learn from must have values in [0, 1], got {rows.min():g} to {rows.max():g}.",
                hint="Divide 8-bit images by 255.",
            )
        return rows

    def _paper_prior(self) -> Prior:
        return ProximalPrior()

    def _wrong_prior(self) -> Prior:
        return ProximalPrior(shuffled=True)

    def _fit(self, X: Any, y: NDArray[Any] | None) -> None:
        prior = cast(ProximalPrior, self.prior_)
        architecture = self._architecture(X.shape[1:])
        rows = self._shuffled(X) if prior.shuffled else X
        self.n_steps_ = int(self.n_steps)
        self.spread_ = float(np.abs(rows - np.median(rows)).mean())
        with seeded_init(seed_of(self.seed_, "network")):
            self.network_ = cast(GradientOfConvex, prior.wire(build_network(architecture))).to(self.device_)
        stages = training.schedule(
            prior.loss, for_images=X.ndim == 4, n_steps=self.n_steps_, n_values=X[0].size, sigma=float(self.sigma),
            lr=float(self.lr), gamma=float(self.gamma),
        )  # fmt: skip
        training.train_denoiser(
            self.network_, torch.tensor(rows, dtype=torch.float32), stages, sigma=float(self.sigma),
            batch_size=self._batch_size(architecture), seed=seed_of(self.seed_, "training"), device=self.device_,
            project=prior.convex, tell=self._tell,
        )  # fmt: skip
        self.network_.eval()

    def _transform(self, X: Any) -> NDArray[Any]:
        return self._through(self.network_, X)

    def _state(self) -> State:
        meta = {"architecture": to_json(self.network_.architecture), "spread": self.spread_}
        return State(dict(self.network_.state_dict()), meta, contains_rows=False)

    def _restore(self, state: State) -> None:
        architecture = from_json(state.meta["architecture"])
        if not isinstance(architecture, Architecture):
            raise CheckpointError("the file holds no network of LearnedProximal.")
        self.network_ = build_network(architecture)
        self.network_.load_state_dict(state.tensors)
        self.network_ = self.network_.to(self.device_).eval()
        self.n_steps_, self.spread_ = int(self.n_steps), float(state.meta["spread"])

    @classmethod
    def examples(cls) -> list[Example]:
        rng = numpy_stream(0, "learned-proximal", "examples")
        place = np.indices((8, 8))[None, :, :, :]
        centre = rng.uniform(1.5, 5.5, (24, 2, 1, 1))
        discs = (((place - centre) ** 2).sum(1, keepdims=True) < 6).astype(np.float64)
        tiny = {"hidden": 4, "n_steps": 16, "batch_size": 8, "random_state": 0}
        vectors = rng.laplace(size=(40, 2)) * [1.0, 3.0]
        noisy = discs[:5] + 0.1 * rng.normal(size=(5, 1, 8, 8))
        return [
            Example("discs", tiny, discs, X_new=noisy),
            Example("large network", {**tiny, "network": "large"}, discs, X_new=noisy),
            Example("vectors", {**tiny, "n_steps": 44, "sigma": 1.0}, vectors, X_new=vectors[:6] + 1.0),
        ]

    @classmethod
    def prove(cls, *, preset: str = "small", seeds: int = 3, progress: ProgressCallback | None = None) -> Evidence:
        """Small proofs: the proximal map of the Laplacian, and deblurring and judging of digits."""
        from foreknow.signals.learned_proximal.proof import prove

        return prove(preset=preset, seeds=seeds, progress=progress)

    @classmethod
    def priced_as(cls, task: str) -> System:
        from foreknow.signals.learned_proximal.plain import PRICED

        return cls(**PRICED)

    @classmethod
    def priced_on(cls, task: str) -> Mapping[str, Any]:
        from foreknow.signals.learned_proximal.plain import sources

        return sources()

    @classmethod
    def priced_from(cls, path: Path) -> Any:
        """A folder of images; pieces of one image are never on both sides of a split."""
        from foreknow.signals.learned_proximal.files import price_source

        return price_source(path)

    def plain_baselines(self) -> Mapping[str, Callable[[int], Any]]:
        from foreknow.signals.learned_proximal.plain import baselines

        return baselines(self)

    def losses(self, model: Any, test: Sample) -> Mapping[str, float]:
        """Of deblurring: minus the mean PSNR in dB, and one minus the mean structural similarity."""
        from foreknow.signals.learned_proximal.plain import deblurring_losses

        return deblurring_losses(model, test.X)

    @classmethod
    def read_files(cls, paths: Sequence[Path], options: Mapping[str, str]) -> Sample:
        from foreknow.signals.learned_proximal.files import read_training

        return read_training(paths, options)

    def apply_files(
        self, inputs: Sequence[str], out: Path, options: Mapping[str, str], progress: ProgressCallback | None = None
    ) -> Applied:
        from foreknow.signals.learned_proximal.files import apply

        return apply(self, inputs, out, options, progress)

    def pictures(self) -> Mapping[str, Picture]:
        """What the prior finds plausible, and how its log density falls with noise; of vectors, the learnt map."""
        from foreknow.signals.learned_proximal.looking import pictures

        self._check_fitted()
        return pictures(self)

    # Machinery -----------------------------------------------------------------------------------------------

    def _checked(self, X: object) -> NDArray[np.float32]:
        rows = as_array(_OWNER, X, axes=(2, 4))
        low, high = (_LOWEST, _HIGHEST) if rows.ndim == 4 else (-_LARGEST * self.sigma, _LARGEST * self.sigma)
        if rows.min() < low or rows.max() > high:
            raise InputError(
                f"{_OWNER}: {'images are expected in [0, 1]' if rows.ndim == 4 else 'numbers are too large'}, "
                f"got values from {rows.min():g} to {rows.max():g}.",
                hint="Divide 8-bit images by 255." if rows.ndim == 4 else "Rescale the rows to the size of sigma.",
            )
        return rows.astype(np.float32)

    def _architecture(self, shape: Sequence[int]) -> Architecture:
        kind = self.network
        if kind == "auto":
            kind = "mlp" if len(shape) == 1 else "small" if max(shape[1:]) <= LARGEST_SMALL else "large"
        if (kind == "mlp") != (len(shape) == 1):
            raise ConfigError(
                f"{_OWNER}: network={kind!r} is for {'vectors' if kind == 'mlp' else 'images'}, but rows have shape "
                f"{tuple(shape)}.",
                hint="Use network='auto'.",
            )
        sizes: dict[str, Any] = dict({"mlp": VECTOR, "small": SMALL, "large": LARGE}[kind])
        given = {"hidden": self.hidden, "beta": self.beta, "alpha": self.alpha}
        sizes |= {name: value for name, value in given.items() if value is not None}
        return Architecture("mlp" if kind == "mlp" else "conv", tuple(int(n) for n in shape), **sizes)

    def _batch_size(self, architecture: Architecture) -> int:
        usual = 2000 if architecture.kind == "mlp" else 64 if architecture.valid_head else 200
        return int(usual if self.batch_size is None else self.batch_size)

    def _shuffled(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        flat = X.reshape(len(X), -1)
        if flat.shape[1] < 2:
            raise InputError(f"{_OWNER}: the wrong prior shuffles the numbers of a row; rows have one number only.")
        order = np.roll(numpy_stream(self.seed_, "shuffle").permutation(flat.shape[1]), 1)
        if (order == np.arange(len(order))).all():
            order = np.roll(order, 1)
        return np.ascontiguousarray(flat[:, order].reshape(X.shape))

    def _denoiser(self, shape: Sequence[int]) -> nn.Module:
        """The network, or its average over patches for images larger than its own."""
        own = self.network_.architecture.shape
        if tuple(shape) == own:
            return self.network_
        if len(own) == 3 and len(shape) == 3 and shape[0] == own[0] and shape[1] >= own[1] and shape[2] >= own[2]:
            return PatchAverage(self.network_, (own[1], own[2]))
        raise InputError(
            f"{_OWNER}: images of shape {own}, or larger ones of as many channels, are needed; got {tuple(shape)}."
        )

    def _through(self, denoiser: nn.Module, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            parts = [denoiser(part.to(self.device_)).cpu() for part in torch.split(torch.tensor(rows), _CHUNK)]
        return torch.cat(parts).numpy()
