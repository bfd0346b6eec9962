"""`NNGPClassifier`: classes by a sparse variational t process with the kernel of a wide deep network."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from foreknow.common.errors import CheckpointError
from foreknow.common.rng import numpy_stream, torch_stream
from foreknow.common.validate import check_bool, check_int, check_option, check_real
from foreknow.core.predictive import Categorical, Predictive
from foreknow.core.prior import Prior
from foreknow.core.registry import register
from foreknow.core.system import Example, State, System, Tags
from foreknow.functions.scale_mixture_nngp.card import CARD
from foreknow.functions.scale_mixture_nngp.prior import LogNormal
from foreknow.functions.scale_mixture_nngp.svtp import SparseProcess, choose_inducing
from foreknow.functions.scale_mixture_nngp.system import (
    PAPER_PRIOR,
    WRONG_PRIOR,
    architecture_of,
    as_scale_prior,
    check_rows,
    fit_scaling,
    scaling_from,
    scaling_tensors,
)

FIT_KERNEL = ("auto", "yes", "no")


@register(CARD, main=False)
class NNGPClassifier(System):
    """Classification of rows or small images with a wide network whose last layer has an unknown variance.

    Args:
        prior: of the last layer's variance: "paper" (InverseGamma(2, 2)), "off" (fixed: the sparse variational
            Gaussian process), "wrong", or an object.
        depth, activation, residual, image_shape, readout: the network, as for `NNGP`.
        n_inducing: inducing points, chosen evenly from the classes.
        n_epochs: passes over the rows. Too few measure how fast a prior learns, not what it is worth.
        batch_size: rows a step.
        learning_rate: of Adam at first; it falls to 0 along half a cosine.
        n_samples: draws of the latents a step.
        n_test_samples: draws of the latents for predictions.
        fit_kernel: whether the kernel's variances are learnt: "yes", "no", or "auto" (not for images).
        whiten: whether the variational posterior is diagonal after whitening.
        random_state: seed of inducing points, batches and draws.
        device: where to compute, in float64.

    After fitting, `bound_` is the lower bound of the log probability of all labels: what training maximised.

    Example:
        >>> from foreknow.functions import NNGPClassifier
        >>> x = [[0.0], [0.2], [0.4], [2.0], [2.2], [2.4]]
        >>> NNGPClassifier(depth=1, random_state=0).fit(x, list("aaabbb")).predict([[0.1], [2.3]]).tolist()
        ['a', 'b']
    """

    tags = Tags(tolerance=1e-4)

    def __init__(
        self,
        prior: Prior | str = "paper",
        *,
        depth: int = 4,
        activation: str = "relu",
        residual: bool = False,
        image_shape: tuple[int, int, int] | None = None,
        readout: str = "flatten",
        n_inducing: int = 200,
        n_epochs: int = 300,
        batch_size: int = 100,
        learning_rate: float = 0.03,
        n_samples: int = 20,
        n_test_samples: int = 2000,
        fit_kernel: str = "auto",
        whiten: bool = True,
        random_state: int | None = None,
        device: str = "auto",
    ) -> None:
        self.prior = prior
        self.depth = depth
        self.activation = activation
        self.residual = residual
        self.image_shape = image_shape
        self.readout = readout
        self.n_inducing = n_inducing
        self.n_epochs = n_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.n_samples = n_samples
        self.n_test_samples = n_test_samples
        self.fit_kernel = fit_kernel
        self.whiten = whiten
        self.random_state = random_state
        self.device = device

    @classmethod
    def published(cls, **settings: Any) -> NNGPClassifier:
        """The published sizes: 200 inducing points, 300 epochs, 100 draws a step, 10 000 for predictions."""
        sizes = {"n_inducing": 200, "n_epochs": 300, "learning_rate": 0.01, "n_samples": 100, "n_test_samples": 10_000}
        return cls(**{**sizes, "whiten": False, **settings})

    # Hooks -------------------------------------------------------------------------------------------------

    def _check_settings(self) -> None:
        owner = "NNGPClassifier"
        architecture_of(self)
        for name in ("n_inducing", "n_epochs", "batch_size", "n_samples", "n_test_samples"):
            check_int(owner, name, getattr(self, name), low=1)
        check_real(owner, "learning_rate", self.learning_rate, low=0, open_low=True)
        check_option(owner, "fit_kernel", self.fit_kernel, FIT_KERNEL)
        check_bool(owner, "whiten", self.whiten)

    def _task(self) -> str:
        return "classification"

    def _paper_prior(self) -> Prior:
        return PAPER_PRIOR

    def _wrong_prior(self) -> Prior:
        return WRONG_PRIOR

    def _fit(self, X: NDArray[np.float64], y: NDArray[Any] | None) -> None:
        assert y is not None  # the base class refuses a missing target
        check_rows("NNGPClassifier", X, self.image_shape, 10**9)
        order = np.lexsort((y, *X.T[::-1]))
        self.scaling_ = fit_scaling(X, self.image_shape)
        x = torch.from_numpy(self.scaling_.transform(X[order])).to(self.device_)
        codes = torch.from_numpy(y[order])
        chosen = choose_inducing(codes, self.n_inducing, self._stream("inducing")).to(self.device_)
        self.network_ = self._network(x[chosen], len(self.classes_))
        self._train(x, codes.to(self.device_))

    def _network(self, inducing: torch.Tensor, n_classes: int) -> SparseProcess:
        learnt = self.fit_kernel == "yes" or (self.fit_kernel == "auto" and self.image_shape is None)
        prior = as_scale_prior("NNGPClassifier", self.prior_, "auto")
        network = SparseProcess(
            architecture_of(self), prior, inducing, n_classes, fit_kernel=learnt, whiten=self.whiten
        )
        return network.to(self.device_)

    def _train(self, x: torch.Tensor, codes: torch.Tensor) -> None:
        network, n = self.network_, len(x)
        fixed = None
        if not network.log_w_var.requires_grad:
            with torch.no_grad():
                fixed = network.kernels(x)
        learnt = [value for value in network.parameters() if value.requires_grad]
        optimizer = torch.optim.Adam(learnt, lr=self.learning_rate)
        n_steps = self.n_epochs * math.ceil(n / self.batch_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
        shuffles = self._stream("batches")
        noise = torch_stream(self.seed_, "noise", device=self.device_)
        scales = torch_stream(self.seed_, "scales", device=self.device_)
        for epoch in range(self.n_epochs):
            rows = torch.randperm(n, generator=shuffles).to(self.device_)
            for batch in torch.split(rows, self.batch_size):
                kernels = network.kernels(x[batch]) if fixed is None else (fixed[0], fixed[1][batch], fixed[2][batch])
                loss = network.loss(kernels, codes[batch], n, n_samples=self.n_samples, generator=noise, scales=scales)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                for value in learnt:  # each by itself: a sure prior pulls hard at the scale, and at nothing else
                    torch.nn.utils.clip_grad_norm_(value, 10.0)
                optimizer.step()
                schedule.step()
            self._tell(epoch + 1, self.n_epochs, f"loss {loss.item():.3f}")
        for value in network.parameters():
            value.requires_grad_(False)
            value.grad = None
        noise, scales = (torch_stream(self.seed_, "bound", name, device=self.device_) for name in ("noise", "scales"))
        total = 0.0
        for batch in torch.split(torch.arange(n, device=self.device_), self.batch_size):
            kernels = network.kernels(x[batch]) if fixed is None else (fixed[0], fixed[1][batch], fixed[2][batch])
            loss = network.loss(kernels, codes[batch], n, n_samples=self.n_test_samples, generator=noise, scales=scales)
            total -= len(batch) * loss.item()
        self.bound_ = total

    def _predict_dist(self, X: NDArray[np.float64]) -> Predictive:
        x = torch.from_numpy(self.scaling_.transform(X)).to(self.device_)
        noise = torch_stream(self.seed_, "predict")
        z = torch.randn(self.n_test_samples, len(self.classes_), generator=noise, dtype=torch.float64)
        u = torch_stream(self.seed_, "predict", "scales")
        with torch.no_grad():
            s2 = self.network_.draw_scales(self.n_test_samples, u) if self.device_.type == "cpu" else None
            if s2 is None:  # draws on the processor, so that every device predicts the same
                s2 = self.network_.cpu().draw_scales(self.n_test_samples, u)
                self.network_.to(self.device_)
        return Categorical(self.network_.log_proba(x, z.to(self.device_), s2.to(self.device_)))

    def _state(self) -> State:
        tensors = {f"network.{name}": value for name, value in self.network_.state_dict().items()}
        meta = {"bound": self.bound_}
        return State({**tensors, **scaling_tensors(self.scaling_)}, meta, contains_rows=True)

    def _restore(self, state: State) -> None:
        self.scaling_, self.bound_ = scaling_from(state.tensors), float(state.meta["bound"])
        own = {name.removeprefix("network."): t for name, t in state.tensors.items() if name.startswith("network.")}
        if "inducing" not in own:
            raise CheckpointError("the file holds no inducing points.")
        network = self._network(own["inducing"], len(self.classes_))
        network.load_state_dict(own)
        self.network_ = network.to(self.device_).requires_grad_(False)

    @classmethod
    def examples(cls) -> list[Example]:
        rng = numpy_stream(0, "nngp", "classes")
        X = rng.normal(size=(24, 2))
        y = np.where(X[:, 0] > 0, "right", "left")
        quick = {
            "depth": 2,
            "n_inducing": 8,
            "n_epochs": 5,
            "batch_size": 12,
            "n_samples": 4,
            "n_test_samples": 64,
            "random_state": 0,
        }
        images = rng.uniform(size=(18, 9)) + np.repeat([[0.0], [1.0], [2.0]], 6, axis=0)
        return [
            Example("rows", quick, X, y),
            Example(
                "images", {**quick, "image_shape": (1, 3, 3), "prior": LogNormal()}, images, np.repeat([0, 1, 2], 6)
            ),
        ]
