"""The prior: targets of an infinitely wide deep Gaussian process, and how freely its Gram matrices may move."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from foreknow.common.errors import ConfigError
from foreknow.common.validate import check_int, check_option, check_real
from foreknow.core.prior import Prior, Simulator
from foreknow.core.registry import register
from foreknow.functions.deep_kernel_machine.card import CARD
from foreknow.functions.deep_kernel_machine.kernels import KERNELS, apply_kernel
from foreknow.nn.inducing import stable_cholesky
from foreknow.nn.infinite.dense import Gram


@register(CARD)
@dataclass(frozen=True)
class DeepKernelPrior(Simulator):
    """Functions of a deep Gaussian process of infinite width; nu says how dear it is to move its Gram matrices.

    Draws are those of the infinite width whatever nu is: nu speaks of what the data may do.

    Args:
        n_features: columns of x, standard normal in draws.
        layers: Gram matrices between input and output.
        kernel: "arccos" (ReLU), "sqexp" or "linear", in every layer.
        nu: price of a nat of divergence for each output; inf forbids any, 0 asks none, "auto" is chosen on rows held
            out.
        noise: variance of the noise of draws.
    """

    n_features: int = 1
    layers: int = 3
    kernel: str = "sqexp"
    nu: float | str = "auto"
    noise: float = 0.01

    target: ClassVar[str] = "regression"
    view: ClassVar[str] = "curves"

    def __post_init__(self) -> None:
        owner = "DeepKernelPrior"
        check_int(owner, "n_features", self.n_features, low=1)
        check_int(owner, "layers", self.layers, low=1, high=50)
        check_option(owner, "kernel", self.kernel, KERNELS)
        check_real(owner, "noise", self.noise, low=0)
        check_nu(owner, self.nu)

    def describe(self) -> str:
        """One line for people."""
        return f"infinitely wide deep Gaussian process, {self.layers} layers of kernel {self.kernel}, nu = {self.nu}"

    def off(self) -> Prior:
        """The same with nu = inf: no representation learning."""
        return replace(self, nu=math.inf)

    def covariance(self, x: Tensor) -> Tensor:
        """Covariance of the outputs at rows (*b, n, d), shape (*b, n, n)."""
        gram = Gram.of(x)
        for _ in range(self.layers + 1):
            gram = apply_kernel(self.kernel, gram)
        return gram.cross

    def _draw(
        self, n_tasks: int, n_rows: int, *, generator: Generator, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        size = (n_tasks, n_rows)
        place = generator.device
        x = torch.randn(*size, self.n_features, generator=generator, device=place, dtype=torch.float64)
        factor, _ = stable_cholesky(self.covariance(x), 1e-8)
        z = torch.randn(*size, 1, generator=generator, device=place, dtype=torch.float64)
        y = (factor @ z)[..., 0]
        y = y + self.noise**0.5 * torch.randn(size, generator=generator, device=place, dtype=torch.float64)
        return x.to(device, dtype), y.to(device, dtype), {}

    @classmethod
    def examples(cls) -> list[Prior]:
        return [cls(), cls(n_features=3, layers=2, kernel="arccos", nu=10.0)]


def check_nu(owner: str, nu: object) -> float | str:
    """`nu` if it is "auto", infinity, or a number from 0."""
    if isinstance(nu, str):
        return check_option(owner, "nu", nu, ("auto",))
    if isinstance(nu, float) and nu == math.inf:
        return nu
    try:
        return check_real(owner, "nu", nu, low=0)
    except ConfigError:
        raise ConfigError(f"{owner}: nu must be a number from 0, inf or 'auto', got {nu!r}.") from None
