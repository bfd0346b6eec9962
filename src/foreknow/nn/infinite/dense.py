"""Fully connected networks of infinite width: NNGP and NTK, from rows or from a Gram matrix alone.

Layer l of the network is h_l = W_l phi(h_{l-1}) / sqrt(width) + b_l with W ~ N(0, w_var), b ~ N(0, b_var), and
h_0 = W_0 x / sqrt(d) + b_0. Then (Lee et al. 2018; Jacot et al. 2018)
    K_0 = b_var + w_var x.x'/d          K_l = b_var + w_var E phi(u) phi(v) under K_{l-1}
    T_0 = K_0                           T_l = K_l + w_var T_{l-1} E phi'(u) phi'(v)
A residual layer is h_l = h_{l-1} + W_l phi(h_{l-1}) / sqrt(width) + b_l, which adds K_{l-1} and T_{l-1}.

Variances may be tensors of any shape *b: all kernels get the leading axes *b, so a grid of settings is one call, and
gradients reach them.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.validate import check_bool, check_int, check_real
from foreknow.nn.infinite.activations import Activation, as_activation

Variance = float | Tensor
"""A number, or a tensor of shape *b."""


@dataclass(frozen=True)
class Gram:
    """Second moments of what a layer holds of some rows and of some columns.

    Args:
        rows: variance of each row, shape (*b, n).
        columns: variance of each column, shape (*b, m).
        cross: covariance of each row with each column, shape (*b, n, m).
    """

    rows: Tensor
    columns: Tensor
    cross: Tensor

    @classmethod
    def of(cls, x: Tensor, z: Tensor | None = None) -> Gram:
        """x.x'/d of rows (*b, n, d), with themselves or with rows (*b, m, d)."""
        d = x.shape[-1]
        if z is None:
            return cls.square(x @ x.mT / d)
        if z.shape[-1] != d:
            raise InputError(f"Gram: rows have {d} columns and {z.shape[-1]}.")
        return cls(x.square().sum(-1) / d, z.square().sum(-1) / d, x @ z.mT / d)

    @classmethod
    def square(cls, k: Tensor) -> Gram:
        """From one symmetric matrix (*b, n, n)."""
        diagonal = k.diagonal(dim1=-2, dim2=-1)
        return cls(diagonal, diagonal, k)

    def _broadcast(self) -> tuple[Tensor, Tensor, Tensor]:
        """The three as activations take them."""
        return self.rows.unsqueeze(-1), self.columns.unsqueeze(-2), self.cross


def layer(
    gram: Gram, activation: Activation | str, w_var: Variance = 1.0, b_var: Variance = 0.0, *, residual: bool = False
) -> Gram:
    """One layer: activation, then weights and biases. Needs nothing but the Gram matrix of the layer before.

    Args:
        gram: of what comes before the activation.
        activation: or its name.
        w_var: variance of the weights, times the width.
        b_var: variance of the biases.
        residual: whether the layer adds to what it gets.
    """
    phi = as_activation("layer", activation)
    w, v = _lift(w_var, 1, gram.cross), _lift(b_var, 1, gram.cross)
    rows = w * phi.second_moment(gram.rows) + v
    columns = rows if gram.columns is gram.rows else w * phi.second_moment(gram.columns) + v
    cross = _lift(w_var, 2, gram.cross) * phi.dual(*gram._broadcast()) + _lift(b_var, 2, gram.cross)
    after = Gram(rows, columns, cross)
    return _add(after, gram) if residual else after


def layer_ntk(
    gram: Gram,
    ntk: Tensor,
    activation: Activation | str,
    w_var: Variance = 1.0,
    b_var: Variance = 0.0,
    *,
    residual: bool = False,
) -> tuple[Gram, Tensor]:
    """`layer`, and the tangent kernel (*b, n, m) after it, from that before it."""
    phi = as_activation("layer_ntk", activation)
    after = layer(gram, phi, w_var, b_var)
    slope = _lift(w_var, 2, gram.cross) * phi.dual_derivative(*gram._broadcast())
    ntk = after.cross + slope * ntk + (ntk if residual else 0)
    return (_add(after, gram) if residual else after), ntk


@dataclass(frozen=True)
class FullyConnected:
    """The kernels of a deep fully connected network of infinite width.

    Calling it gives the NNGP kernel, `ntk` the tangent kernel of a network all of whose weights and biases are trained.

    Args:
        depth: hidden layers, at least 0 (a linear model).
        activation: of the hidden layers, or its name.
        w_var: variance of the weights, times the width.
        b_var: variance of the biases.
        readout_w_var: of the last layer; `w_var` if None.
        readout_b_var: of the last layer; `b_var` if None.
        residual: whether hidden layers after the first add to what they get.
    """

    depth: int = 3
    activation: Activation | str = "relu"
    w_var: Variance = 1.0
    b_var: Variance = 0.0
    readout_w_var: Variance | None = None
    readout_b_var: Variance | None = None
    residual: bool = False

    def __post_init__(self) -> None:
        check_int("FullyConnected", "depth", self.depth, low=0)
        check_bool("FullyConnected", "residual", self.residual)
        as_activation("FullyConnected", self.activation)
        check_variances("FullyConnected", self)

    def __call__(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """NNGP kernel of rows (*b, n, d), with themselves or with rows (*b, m, d): shape (*b, n, m)."""
        return self.of_gram(Gram.of(x, z)).cross

    def diag(self, x: Tensor) -> Tensor:
        """The NNGP kernel of each row with itself, shape (*b, n)."""
        return self._diagonals(x)[0]

    def ntk(self, x: Tensor, z: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """NNGP and NTK of rows with themselves or with others, each of shape (*b, n, m)."""
        return self.ntk_of_gram(Gram.of(x, z))

    def ntk_diag(self, x: Tensor) -> Tensor:
        """The NTK of each row with itself, shape (*b, n)."""
        return self._diagonals(x)[1]

    def of_gram(self, gram: Gram) -> Gram:
        """The NNGP kernels of inputs known by their Gram matrix x.x'/d only."""
        gram = self._first(gram)
        for w_var, b_var, residual in self._layers():
            gram = layer(gram, self.activation, w_var, b_var, residual=residual)
        return gram

    def ntk_of_gram(self, gram: Gram) -> tuple[Tensor, Tensor]:
        """NNGP and NTK (*b, n, m) of inputs known by their Gram matrix only."""
        gram = self._first(gram)
        ntk = gram.cross
        for w_var, b_var, residual in self._layers():
            gram, ntk = layer_ntk(gram, ntk, self.activation, w_var, b_var, residual=residual)
        return gram.cross, ntk

    def _first(self, gram: Gram) -> Gram:
        w, b = (self.w_var, self.b_var) if self.depth else self._readout()
        same = gram.columns is gram.rows
        rows = _lift(w, 1, gram.cross) * gram.rows + _lift(b, 1, gram.cross)
        columns = rows if same else _lift(w, 1, gram.cross) * gram.columns + _lift(b, 1, gram.cross)
        return Gram(rows, columns, _lift(w, 2, gram.cross) * gram.cross + _lift(b, 2, gram.cross))

    def _diagonals(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """NNGP and NTK of each row with itself."""
        phi = as_activation("FullyConnected", self.activation)
        w, b = (self.w_var, self.b_var) if self.depth else self._readout()
        square = x.square().sum(-1) / x.shape[-1]
        a = _lift(w, 1, square) * square + _lift(b, 1, square)
        ntk = a
        for w_var, b_var, residual in self._layers():
            w = _lift(w_var, 1, square)
            new = w * phi.second_moment(a) + _lift(b_var, 1, square)
            ntk = new + w * phi.dual_derivative(a, a, a) * ntk + (ntk if residual else 0)
            a = new + (a if residual else 0)
        return a, ntk

    def _readout(self) -> tuple[Variance, Variance]:
        w = self.w_var if self.readout_w_var is None else self.readout_w_var
        b = self.b_var if self.readout_b_var is None else self.readout_b_var
        return w, b

    def _layers(self) -> list[tuple[Variance, Variance, bool]]:
        """Weight variance, bias variance, and whether it is residual, of each layer that follows an activation."""
        if not self.depth:
            return []
        return [(self.w_var, self.b_var, self.residual)] * (self.depth - 1) + [(*self._readout(), False)]


def _add(one: Gram, other: Gram) -> Gram:
    rows = one.rows + other.rows
    columns = rows if one.columns is one.rows else one.columns + other.columns
    return Gram(rows, columns, one.cross + other.cross)


def _lift(value: Variance, axes: int, like: Tensor) -> Variance:
    """A variance of shape *b as it multiplies tensors with `axes` more axes; numbers stay."""
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    return value.reshape(*value.shape, *[1] * axes).to(like)


def check_variances(owner: str, kernel: object) -> None:
    """Refuse variances below 0 or not finite."""
    for name in ("w_var", "b_var", "readout_w_var", "readout_b_var"):
        value = getattr(kernel, name)
        if isinstance(value, Tensor):
            if not bool((value.isfinite() & (value >= 0)).all()):
                raise ConfigError(f"{owner}: {name} must be finite and at least 0, got {value!r:.80}.")
        elif value is not None:
            check_real(owner, name, value, low=0)
