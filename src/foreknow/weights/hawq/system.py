"""The system `hawq`: a trained network becomes integers of mixed bits, chosen by the curvature of its loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from foreknow.common.deps import require
from foreknow.common.errors import ConfigError, ConvergenceError, InputError
from foreknow.common.progress import Progress, ProgressCallback
from foreknow.common.rng import numpy_stream, seed_of
from foreknow.common.validate import as_array, check_bool, check_int, check_option, check_real
from foreknow.core.evidence import Evidence
from foreknow.core.measures import expected_calibration_error
from foreknow.core.pictures import Picture
from foreknow.core.predictive import Categorical, Predictive
from foreknow.core.prior import Prior
from foreknow.core.registry import register
from foreknow.core.source import Sample
from foreknow.core.system import Applied, Example, State, System, Tags
from foreknow.train.config import TrainConfig
from foreknow.train.loop import train
from foreknow.weights.hawq.allocation import (
    BitPlan,
    LayerSensitivity,
    Sensitivity,
    allocate_bits,
    check_bits,
    finetune,
    hessian_sensitivity,
)
from foreknow.weights.hawq.card import CARD
from foreknow.weights.hawq.integers import IntegerGraph
from foreknow.weights.hawq.network import QuantizedNetwork
from foreknow.weights.hawq.networks import own_network
from foreknow.weights.hawq.prior import CurvaturePrior
from foreknow.weights.hawq.reading import read

_CHUNK = 256
_MEASURED = "onnxruntime"
"""Rows that are predicted at once."""


@register(CARD)
class DyadicQuantizer(System):
    """Turns a trained network into integers: fewest bits where the loss is flat, within a budget.

    `fit(X, y, model=net)` finds the curvature of the loss along every layer's weights, gives each layer its bits by an
    integer program, calibrates, fine-tunes with rounded weights and activations, and keeps a graph of integers.
    Predictions are those of the graph. Without a model a small network is trained on X and y first.

    Args:
        prior: a `CurvaturePrior`, "paper", "off" (every layer equally curved) or "wrong" (costs exchanged at random).
        bits: choices for a layer, from 2 to 8.
        size_mb: most mebibytes of weights, of the whole network.
        gbops: most bit operations for one row, in 10^9.
        latency_ms: most milliseconds, by `latencies`.
        latencies: layer -> bits (as text) -> milliseconds, measured where the network is to run; or "onnxruntime",
            which measures them here on one row (extra `onnx`), in every control arm anew.
        fraction: of the way from the smallest to the largest size; the budget where none of the above is given.
        activation_bits: of all activations between the first and the last layer; by default those of the layer that
            reads them.
        n_probes: vectors to probe the curvature with.
        n_calibration: rows to find the curvature and the ranges of activations with.
        epochs: of fine-tuning; 0 leaves it out.
        lr: of fine-tuning.
        batch_size: rows in a batch.
        momentum: of the moving average of ranges; -1 keeps the extremes.
        fold_norm: whether batch normalisation is frozen in fine-tuning, or goes on and is folded at the end.
        width: channels of the first stage of the own network; not used with a model.
        n_blocks: of a stage of the own network; 2 make 14 layers.
        own_epochs: of its training.
        random_state: seed of rows, probes, batches and the own network.
        device: where to compute.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(60, 4)); y = (X[:, 0] > X[:, 1]).astype(int)
        >>> small = DyadicQuantizer(width=4, n_probes=8, own_epochs=20, batch_size=20, random_state=0).fit(X, y)
        >>> sorted(set(small.plan_.bits.values()))
        [4, 8]

    References:
        yao2021hawqv3.
    """

    tags = Tags(row_order_invariant=False)
    fit_inputs = ("model",)

    def __init__(
        self,
        prior: Prior | str = "paper",
        *,
        bits: Sequence[int] = (4, 8),
        size_mb: float | None = None,
        gbops: float | None = None,
        latency_ms: float | None = None,
        latencies: Mapping[str, Mapping[str, float]] | str | None = None,
        fraction: float = 0.5,
        activation_bits: int | None = None,
        n_probes: int = 64,
        n_calibration: int = 256,
        epochs: float = 1.0,
        lr: float = 1e-4,
        batch_size: int = 128,
        momentum: float = 0.95,
        fold_norm: bool = True,
        width: int = 16,
        n_blocks: int = 2,
        own_epochs: float = 4.0,
        random_state: int | None = None,
        device: str = "auto",
    ) -> None:
        self.prior = prior
        self.bits = bits
        self.size_mb = size_mb
        self.gbops = gbops
        self.latency_ms = latency_ms
        self.latencies = latencies
        self.fraction = fraction
        self.activation_bits = activation_bits
        self.n_probes = n_probes
        self.n_calibration = n_calibration
        self.epochs = epochs
        self.lr = lr
        self.batch_size = batch_size
        self.momentum = momentum
        self.fold_norm = fold_norm
        self.width = width
        self.n_blocks = n_blocks
        self.own_epochs = own_epochs
        self.random_state = random_state
        self.device = device

    # Results ------------------------------------------------------------------------------------------------

    def export_onnx(self, path: str | Path, *, vnni: bool = False) -> Path:
        """Write the graph of integers for other runtimes; needs the extra `onnx`.

        Args:
            path: of the file.
            vnni: True is quicker where the processor adds products of bytes in 32 bits (Intel from Cascade Lake and Ice
                Lake on, AMD from Zen 4 on, ARM), and not exact elsewhere.

        Raises:
            NotFittedError: before `fit`.
        """
        self._check_fitted()
        return Path(self.integer_.export_onnx(path, vnni=vnni))

    def deployment(self, X: Any, *, n_runs: int = 50) -> list[dict[str, Any]]:
        """Milliseconds and bytes of the graph of integers beside its twins in float and in uniform 8 bits.

        Args:
            X: rows that are run at once.
            n_runs: timed runs of each.
        """
        from foreknow.weights.hawq.onnx_runtime import deployment

        return deployment(self.integer_, self._read_new(X), n_runs=n_runs)

    def pictures(self) -> Mapping[str, Picture]:
        """Bits and curvature of every layer."""
        self._check_fitted()
        return {"bits": self.plan_.picture()}

    # Hooks --------------------------------------------------------------------------------------------------

    def _check_settings(self) -> None:
        owner = "DyadicQuantizer"
        check_bits(owner, self.bits)
        for name in ("size_mb", "gbops", "latency_ms"):
            if getattr(self, name) is not None:
                check_real(owner, name, getattr(self, name), low=0.0, open_low=True)
        if self.latencies == _MEASURED:
            for module in ("onnx", "onnxruntime"):  # before the work that leads there
                require(module, "Measuring latencies")
        else:
            self._read_latencies(self.latencies)
        check_real(owner, "fraction", self.fraction, low=0.0, high=1.0)
        if self.activation_bits is not None:
            check_int(owner, "activation_bits", self.activation_bits, low=2, high=8)
        check_int(owner, "n_probes", self.n_probes, low=2)
        for name in ("n_calibration", "batch_size", "width", "n_blocks"):
            check_int(owner, name, getattr(self, name), low=1)
        for name in ("epochs", "own_epochs"):
            check_real(owner, name, getattr(self, name), low=0.0)
        check_real(owner, "lr", self.lr, low=0.0, open_low=True)
        if check_real(owner, "momentum", self.momentum, low=-1.0, high=1.0) < 0 and self.momentum != -1:
            raise ConfigError(f"{owner}: momentum must be from 0 to 1, or -1, got {self.momentum!r}.")
        check_bool(owner, "fold_norm", self.fold_norm)
        if not isinstance(self._resolve_prior(), CurvaturePrior):
            raise ConfigError(f"{owner}: the prior must be a CurvaturePrior, got {self.prior!r:.80}.")

    def _read_latencies(self, given: Any) -> dict[str, dict[int, float]] | None:
        if given is None:
            return None
        try:
            return {
                str(name): {int(b): check_real("DyadicQuantizer", "latencies", ms, low=0.0) for b, ms in table.items()}
                for name, table in given.items()
            }
        except (AttributeError, ValueError, TypeError) as error:
            raise ConfigError(
                f"DyadicQuantizer: latencies must map layers to bits to milliseconds, or be {_MEASURED!r}, got "
                f"{given!r:.80}."
            ) from error

    def _measure_latencies(self, network: QuantizedNetwork, row: Tensor) -> dict[str, dict[int, float]]:
        from foreknow.weights.hawq.onnx_runtime import layer_latencies

        return layer_latencies(network, row, bits=self.bits)

    def _task(self) -> str:
        return "classification"

    def _paper_prior(self) -> Prior:
        return CurvaturePrior()

    def _wrong_prior(self) -> Prior:
        return CurvaturePrior("random")

    def _read_X(self, X: object, *, fitting: bool) -> NDArray[np.float32]:
        rows = as_array("DyadicQuantizer", X, axes=(2, 4))
        with np.errstate(over="ignore"):
            small = rows.astype(np.float32)
        if not np.isfinite(small).all():
            raise InputError("DyadicQuantizer: X holds numbers above 3e38, which single precision turns to infinity.")
        return small

    def _fit(self, X: Any, y: Any, model: Any = None) -> None:
        labels = torch.as_tensor(y, device=self.device_)
        unit = 1.0
        if model is None:
            unit = float(np.abs(X).max()) or 1.0
            rows = torch.as_tensor(X / np.float32(unit), device=self.device_)
            model = self._own_network(rows, labels)
        else:
            rows = torch.as_tensor(X, device=self.device_)
        reading = read(model, X.shape[1:])
        if reading.n_outputs != len(self.classes_):
            raise InputError(
                f"DyadicQuantizer: the model gives {reading.n_outputs} scores, but y holds {len(self.classes_)} "
                "classes.",
                hint="Bring rows of every class; the model's scores must be in the order of the sorted labels.",
            )
        network = QuantizedNetwork(reading, momentum=float(self.momentum), fold=self.fold_norm).to(self.device_)
        self._tell(35, 100, "curvature")
        few = torch.as_tensor(self._rows_of("curvature", len(X), self.n_calibration), device=self.device_)
        half = -(-len(few) // 2)
        self.sensitivity_ = hessian_sensitivity(
            network,
            nn.functional.cross_entropy,
            [(rows[part], labels[part]) for part in torch.split(few, half)],
            bits=self.bits,
            probes=self.n_probes,
            generator=self._stream("probes"),
        )
        self.n_probes_ = self.sensitivity_.n_probes
        measured = self.latencies == _MEASURED
        self.latencies_ = (
            self._measure_latencies(network, rows[:1]) if measured else self._read_latencies(self.latencies)
        )
        self.plan_ = self._allocate()
        self._tell(50, 100, "calibration")
        network.set_bits(self.plan_.bits, self.activation_bits)
        few = torch.as_tensor(self._rows_of("calibration", len(X), self.n_calibration), device=self.device_)
        network.calibrate(rows[part] for part in torch.split(few, 64))
        n_steps = self._n_steps(len(X), self.epochs)
        if n_steps:
            batches = self._batches("fine-tuning", rows, labels)
            finetune(network, batches, n_steps, lr=self.lr, progress=self._part(50, 100, "fine-tuning"))
        if not all(tensor.isfinite().all() for tensor in network.state_dict().values()):
            raise ConvergenceError("DyadicQuantizer: fine-tuning gave weights or ranges that are not finite.",
                                   hint="Scale the rows as the model was trained on, or lower lr.")  # fmt: skip
        self.integer_ = network.eval().to_integer().with_input_unit(unit)
        self._tell(100, 100)

    def _own_network(self, rows: Tensor, labels: Tensor) -> nn.Module:
        net = own_network(
            rows.shape[1:],
            len(self.classes_),
            width=self.width,
            n_blocks=self.n_blocks,
            seed=seed_of(self.seed_, "own network"),
        )
        n_steps = self._n_steps(len(rows), self.own_epochs)
        if n_steps:
            config = TrainConfig(n_steps=n_steps, lr=3e-3, weight_decay=1e-2, precision="32")
            train(
                net,
                lambda module, batch: nn.functional.cross_entropy(module(batch[0]), batch[1]),
                self._batches("own network", rows, labels),
                config,
                device=self.device_,
                progress=self._part(0, 35, "training a network"),
            )
        return net

    def _n_steps(self, n_rows: int, epochs: float) -> int:
        return math.ceil(epochs * n_rows / min(self.batch_size, n_rows))

    def _rows_of(self, name: str, n_rows: int, n: int) -> NDArray[np.int64]:
        return numpy_stream(self.seed_, "hawq", name).permutation(n_rows)[:n]

    def _batches(self, name: str, rows: Tensor, labels: Tensor) -> Callable[[int], tuple[Tensor, Tensor]]:
        def batch(k: int) -> tuple[Tensor, Tensor]:
            chosen = torch.as_tensor(self._rows_of(f"{name} {k}", len(rows), self.batch_size), device=rows.device)
            return rows[chosen], labels[chosen]

        return batch

    def _part(self, start: float, end: float, note: str) -> ProgressCallback:
        def tell(progress: Progress) -> None:
            self._tell(start + (end - start) * progress.done / progress.total, 100, note)

        return tell

    def _allocate(self) -> BitPlan:
        budgets = (self.size_mb, self.gbops, self.latency_ms)
        assert isinstance(self.prior_, CurvaturePrior)
        return allocate_bits(
            self.sensitivity_,
            size_mb=self.size_mb,
            gbops=self.gbops,
            latency=self.latency_ms,
            latencies=self.latencies_,
            fraction={"size_mb": self.fraction} if budgets == (None, None, None) else None,
            activation_bits=self.activation_bits,
            prior=self.prior_,
            random_state=self.seed_,
        )

    def _predict_dist(self, X: Any) -> Predictive:
        scores = [self.integer_(torch.as_tensor(X[i : i + _CHUNK], device=self.device_))
                  for i in range(0, len(X), _CHUNK)]  # fmt: skip
        return Categorical(torch.cat(scores))

    def _state(self) -> State:
        layers = [
            {**vars(layer), "error": {str(b): error for b, error in layer.error.items()}}
            for layer in self.sensitivity_.layers
        ]
        tables = self.latencies_ or {}
        meta = {
            "graph": self.integer_.describe(),
            "layers": layers,
            "ties": [list(group) for group in self.sensitivity_.ties],
            "n_probes": self.n_probes_,
            "latencies": {name: {str(b): ms for b, ms in table.items()} for name, table in tables.items()} or None,
        }
        return State(self.integer_.packed(), meta, contains_rows=False)

    def _restore(self, state: State) -> None:
        self.integer_ = IntegerGraph.restore(state.meta["graph"], state.tensors).to(self.device_)
        layers = tuple(
            LayerSensitivity(**{**record, "error": {int(b): error for b, error in record["error"].items()}})
            for record in state.meta["layers"]
        )
        self.n_probes_ = int(state.meta["n_probes"])
        ties = tuple(tuple(group) for group in state.meta["ties"])
        self.sensitivity_ = Sensitivity(layers, ties, self.n_probes_)
        self.latencies_ = self._read_latencies(state.meta.get("latencies", self.latencies))
        self.plan_ = self._allocate()

    # Files --------------------------------------------------------------------------------------------------

    @classmethod
    def read_files(cls, paths: Sequence[Path], options: Mapping[str, str]) -> Sample:
        """One folder with a subfolder of images for each class, or .npz with X and y; option model=net.pt2."""
        from foreknow.weights.hawq import files

        files.check_options("foreknow fit hawq", options, ("model",))
        if len(paths) != 1:
            raise InputError(f"foreknow fit hawq: one folder of images or one file .npz is needed, got {len(paths)}.")
        X, y, _ = files.read_rows("foreknow fit hawq", Path(paths[0]), labelled=True)
        model = files.read_model("foreknow fit hawq", Path(options["model"])) if "model" in options else None
        return Sample(X, y, {"model": model})

    def apply_files(
        self, inputs: Sequence[str], out: Path, options: Mapping[str, str], progress: ProgressCallback | None = None
    ) -> Applied:
        """Classes of images or of the rows X of a .npz; option onnx=yes (or vnni) writes model.onnx and its costs."""
        from foreknow.data.readers import write_csv
        from foreknow.weights.hawq import files

        owner = "foreknow apply hawq"
        files.check_options(owner, options, ("onnx",))
        onnx = check_option(owner, "onnx", options.get("onnx", "no"), ("no", "yes", "vnni"))
        if len(inputs) != 1:
            raise InputError(f"{owner}: one folder of images or one file .npz is needed, got {len(inputs)}.")
        X, _, names = files.read_rows(owner, Path(inputs[0]), labelled=False)
        probabilities = self.predict_proba(X)
        labels = self.classes_.tolist()
        classes = [labels[i] for i in probabilities.argmax(1)]
        columns = {"row": names, "class": classes, "probability": [float(p) for p in probabilities.max(1)]}
        written = [out / "predictions.csv"]
        write_csv(written[0], columns)
        record: dict[str, Any] = {"n_rows": len(X), "size_bytes": self.integer_.size_bytes, "bits": self.plan_.bits}
        if onnx == "no":
            counts = [(str(one), classes.count(one)) for one in labels]
            return Applied(record, (("class", "rows"), counts), self.pictures(), tuple(written))
        written.append(self.export_onnx(out / "model.onnx", vnni=onnx == "vnni"))
        record["deployment"] = self.deployment(X[:1])
        names_of = tuple(record["deployment"][0])
        table = [tuple(row[name] for name in names_of) for row in record["deployment"]]
        return Applied(record, (names_of, table), self.pictures(), tuple(written))

    # Price and proof ----------------------------------------------------------------------------------------

    def losses(self, model: Any, test: Sample) -> Mapping[str, float]:
        """Share of wrong classes, then log-loss in nats and calibration error."""
        truth = np.asarray(test.y)
        probabilities = np.asarray(model.predict_proba(np.asarray(test.X)))
        codes = np.searchsorted(model.classes_, truth)
        known = np.isin(truth, model.classes_)
        own = np.where(known, probabilities[np.arange(len(truth)), np.minimum(codes, len(model.classes_) - 1)], 0.0)
        return {
            "error rate": float((probabilities.argmax(1) != codes)[known].sum() + (~known).sum()) / len(truth),
            "log-loss": float(-np.log(np.maximum(own, 1e-12)).mean()),
            "calibration error": expected_calibration_error(probabilities[known], codes[known]),
        }

    @classmethod
    def priced_as(cls, task: str) -> DyadicQuantizer:
        """A tight budget with 2 bits among the choices; with 4 and 8 alone small networks lose nothing."""
        from foreknow.weights.hawq.proof import PRICED

        return cls(**PRICED)

    @classmethod
    def priced_on(cls, task: str) -> Mapping[str, Any]:
        """Digits of scikit-learn, and Fashion-MNIST where it is installed, with networks trained on other rows."""
        from foreknow.weights.hawq.sources import sources

        return sources()

    def plain_baselines(self) -> Mapping[str, Callable[[int], Any]]:
        """The same bits for every layer, those whose size is nearest to the budget."""
        from foreknow.weights.hawq.sources import UniformBits

        return {"uniform bits": lambda seed: UniformBits(self, seed)}

    @classmethod
    def prove(cls, *, preset: str = "small", seeds: int = 3, progress: ProgressCallback | None = None) -> Evidence:
        """Small proof: bits by curvature against bits by error, random and uniform ones; and exact integers."""
        from foreknow.weights.hawq.proof import prove

        return prove(preset=preset, seeds=seeds, progress=progress)

    @classmethod
    def examples(cls) -> list[Example]:
        rng = numpy_stream(0, "hawq", "examples")
        pattern = rng.normal(size=(3, 1, 6, 6))
        y = np.arange(30) % 3
        X, X_new = pattern[y] + rng.normal(size=(30, 1, 6, 6)), rng.normal(size=(9, 1, 6, 6))
        rows, new = rng.normal(size=(24, 4)), rng.normal(size=(7, 4))
        label = np.where(rows[:, 0] + rows[:, 1] > 0, "above", "below")
        given = own_network((1, 6, 6), 3, width=4, n_blocks=1, seed=0)
        quick = {"n_probes": 4, "batch_size": 15, "random_state": 0, "bits": (2, 8)}
        return [
            Example("a network of the user's", {**quick, "lr": 1e-2}, X, y, X_new, {"model": given}),
            Example("rows of features", {**quick, "width": 4, "own_epochs": 3.0}, rows, label, new),
        ]
