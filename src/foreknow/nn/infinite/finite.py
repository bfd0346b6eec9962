"""Finite networks whose kernels, as the width grows, are those of `FullyConnected` and `Convolutional`."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Generator, Tensor, nn

from foreknow.common.errors import ConfigError
from foreknow.common.validate import check_int, check_real
from foreknow.nn.infinite.activations import as_activation
from foreknow.nn.infinite.conv import Convolutional
from foreknow.nn.infinite.dense import FullyConnected


class WideNetwork(nn.Module):
    """A finite network in the parametrisation of the tangent kernel: standard normal parameters, scaled when used.

    Args:
        kernel: whose prior the network has; its variances must be numbers.
        n_in: columns of x, or channels of the images.
        width: units or channels of a hidden layer.
        generator: source of the initial parameters.
        n_out: outputs.
        shape: height and width of the images, for a convolutional kernel with flatten readout.
        readout_scale: factor on the weights of the last layer; its square is the scale of a mixture.
        dtype: of the parameters.
    """

    def __init__(
        self,
        kernel: FullyConnected | Convolutional,
        n_in: int,
        width: int,
        *,
        generator: Generator,
        n_out: int = 1,
        shape: tuple[int, int] | None = None,
        readout_scale: float = 1.0,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        check_int("WideNetwork", "width", width, low=1)
        check_real("WideNetwork", "readout_scale", readout_scale, low=0)
        self.kernel, self.readout_scale = kernel, readout_scale
        self.phi = as_activation("WideNetwork", kernel.activation)
        self.convolutional = isinstance(kernel, Convolutional)
        sizes = [n_in] + [width] * kernel.depth
        window = (kernel.kernel_size,) * 2 if isinstance(kernel, Convolutional) else ()

        def normal(*size: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(size, generator=generator, dtype=dtype, device=generator.device))

        self.weights = nn.ParameterList([normal(o, i, *window) for i, o in itertools.pairwise(sizes)])
        self.biases = nn.ParameterList([normal(o) for o in sizes[1:]])
        fan_in = sizes[-1]
        if isinstance(kernel, Convolutional) and kernel.readout == "flatten":
            fan_in *= math.prod(shape or (1, 1))
        self.readout, self.readout_bias = normal(n_out, fan_in), normal(n_out)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (n, n_out) of rows (n, d) or images (n, C, H, W)."""
        kernel = self.kernel
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases)):
            before = x
            x = self._weigh(self.phi(x) if number else x, weight, bias)
            if number and kernel.residual:
                x = x + before
        if len(self.weights):
            x = self.phi(x)
        if isinstance(kernel, Convolutional):
            x = x.mean((-2, -1)) if kernel.readout == "pool" else x.flatten(1)
        w = kernel.w_var if kernel.readout_w_var is None else kernel.readout_w_var
        b = kernel.b_var if kernel.readout_b_var is None else kernel.readout_b_var
        scale = self.readout_scale * math.sqrt(w / x.shape[1])
        return scale * x @ self.readout.T + math.sqrt(b) * self.readout_bias

    def _weigh(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        kernel = self.kernel
        scale, offset = math.sqrt(kernel.w_var / weight[0].numel()), math.sqrt(kernel.b_var)
        if not isinstance(kernel, Convolutional):
            return scale * x @ weight.T + offset * bias
        reach = kernel.kernel_size // 2
        x = nn.functional.pad(x, (reach,) * 4, mode="circular" if kernel.padding == "circular" else "constant")
        return scale * nn.functional.conv2d(x, weight) + offset * bias[:, None, None]


def layerwise_ntk(network: WideNetwork, x: Tensor) -> Tensor:
    """`empirical_ntk` of a dense network without its gradients in memory: a product of two Gram matrices a layer.

    Args:
        network: dense, with one output.
        x: rows, shape (n, d).
    """
    kernel = network.kernel
    if isinstance(kernel, Convolutional):
        raise ConfigError("layerwise_ntk: the network must be dense.", hint="Use empirical_ntk.")
    inputs, outputs, h = [], [], x
    for number, (weight, bias) in enumerate(zip(network.weights, network.biases)):
        before, given = h, network.phi(h) if number else h
        h = (
            network._weigh(given.detach(), weight.detach(), bias.detach())
            if not number
            else network._weigh(given, weight.detach(), bias.detach())
        )
        if not h.requires_grad:
            h = h.requires_grad_()
        if number and kernel.residual:
            h = h + before
        inputs.append(given.detach())
        outputs.append(h)
    last = network.phi(h) if len(network.weights) else h
    w = kernel.w_var if kernel.readout_w_var is None else kernel.readout_w_var
    b = kernel.b_var if kernel.readout_b_var is None else kernel.readout_b_var
    scale = network.readout_scale * math.sqrt(w / last.shape[1])
    total = scale**2 * (last @ last.T).detach() + b
    if outputs:
        f = (scale * last @ network.readout.detach().T).sum()
        for given, gradient in zip(inputs, torch.autograd.grad(f, outputs)):
            total = total + (gradient @ gradient.T) * (kernel.w_var * given @ given.T / given.shape[1] + kernel.b_var)
    return total.detach()


def empirical_ntk(network: nn.Module, x: Tensor, z: Tensor | None = None) -> Tensor:
    """The tangent kernel of a finite network with one output: inner products of its gradients, shape (n, m)."""
    left = _gradients(network, x)
    return left @ (left if z is None else _gradients(network, z)).T


def _gradients(network: nn.Module, x: Tensor) -> Tensor:
    """Gradient of the first output by all parameters, shape (n, n_parameters)."""
    names = [name for name, _ in network.named_parameters()]
    values = tuple(value.detach() for _, value in network.named_parameters())

    def output(values: tuple[Tensor, ...], row: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(network, dict(zip(names, values)), (row[None],))
        return result[0, 0]

    gradient = torch.func.vmap(torch.func.grad(output), in_dims=(None, 0))(values, x)
    return torch.cat([part.flatten(1) for part in gradient], dim=1)
