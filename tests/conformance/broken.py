"""Doubles with one defect each. `check` must fail on `kind`, and no other check but those in `also`."""

from __future__ import annotations

import contextlib
import copy
import pickle
import socket
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import doubles
import numpy as np
import pytest
import torch
from doubles import BandDouble, ChoiceDouble, FeaturesDouble, LinearDouble, NormalDouble, RidgeDouble, SignDouble
from doubles import SparseDouble as Sparse
from doubles_of_arrays import FieldDouble, Slope, WorldDouble
from torch import nn

from foreknow.common import errors
from foreknow.core import evidence
from foreknow.core.checks import systems
from foreknow.core.predictive import Categorical, Gaussian
from foreknow.core.prior import Draw, Prior
from foreknow.core.records import record
from foreknow.core.system import State, System, Tags


@dataclass(frozen=True)
class Broken:
    check: str
    kind: type
    also: tuple[str, ...] = ()
    patch: Callable[[pytest.MonkeyPatch], None] | None = None

    @property
    def name(self) -> str:
        return f"{self.check}-{self.kind.__name__}"


SYSTEMS: list[Broken] = []
PRIORS: list[Broken] = []
SAID = {"__doc__": "A double with one defect.", "__module__": __name__}


def system(check: str, base: type = RidgeDouble, *, also: tuple[str, ...] = (), patch: Any = None, **changes: Any):
    name = f"Broken{len(SYSTEMS)}{base.__name__}"
    SYSTEMS.append(Broken(check, type(name, (base,), {**SAID, **changes}), also, patch))
    return SYSTEMS[-1].kind


def prior(check: str, base: type, *, also: tuple[str, ...] = (), **changes: Any) -> None:
    name = f"Broken{len(PRIORS)}{base.__name__}"
    PRIORS.append(Broken(check, record(dataclass(frozen=True)(type(name, (base,), {**SAID, **changes}))), also))


def fits(defect: Callable[..., None], base: type = RidgeDouble) -> Callable[..., None]:
    """A `_fit` with a defect after it."""

    def _fit(self, X, y) -> None:
        base._fit(self, X, y)
        defect(self, X, y)

    return _fit


def fails_on(condition: Callable[[np.ndarray], bool]) -> Callable[..., None]:
    """A `_fit` that breaks with an error of no kind on some data."""

    def _fit(self, X, y) -> None:
        if condition(X):
            raise ZeroDivisionError("never meant to happen")
        RidgeDouble._fit(self, X, y)

    return _fit


def reads(change: Callable[..., Any]) -> Callable[..., Any]:
    """A `_read_X` that asks `change(self, X, fitting)` first; None leaves it to the base."""

    def _read_X(self, X, *, fitting) -> Any:
        found = change(self, X, fitting)
        return RidgeDouble._read_X(self, X, fitting=fitting) if found is None else found

    return _read_X


def shifted(dist, amount):
    if isinstance(dist, Gaussian):
        return Gaussian(dist.loc + amount, dist.sd)
    return Categorical(dist.logits + amount * torch.eye(dist.n_classes, dtype=torch.float64)[0])


# What it says of itself ------------------------------------------------------------------------------------------

BARE = replace(doubles.CARD, limits=())
CLAIM = {"name": "c", "expected": ">= 0.9", "measured": 0.1, "verdict": "held"}
REPORT = {**dict.fromkeys(evidence.KEYS, ""), "slug": BARE.slug, "verdict": "held", "claims": [CLAIM]}


def limit_of_5_ms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systems, "SECONDS", 0.005)
    monkeypatch.setattr(systems, "SLACK", 1.0)


system("card_complete", card=BARE)
system("evidence_sound", patch=lambda monkeypatch: monkeypatch.setattr(evidence, "find_evidence", lambda slug: REPORT))
system("expected_failures_exist", expected_failures={"no_such_check": "for no reason"})
system("examples_listed", examples=classmethod(lambda cls: RidgeDouble.examples()[:1]))
system("example_quick", _fit=fits(lambda self, X, y: time.sleep(0.01)), patch=limit_of_5_ms)


# Construction ----------------------------------------------------------------------------------------------------


def _cpu_by_default(self, task="regression", noise=0.5, prior="paper", random_state=None, device="cpu") -> None:
    RidgeDouble.__init__(self, task, noise, prior, random_state, device)


def _works_in_constructor(self, task="regression", noise=0.5, prior="paper", random_state=None, device="auto") -> None:
    RidgeDouble.__init__(self, task, noise, prior, random_state, device)
    self._cache = {}


system("builds_with_defaults", __init__=_cpu_by_default)
system("constructor_stores_only", __init__=_works_in_constructor)
system("clone_keeps_settings", __sklearn_clone__=lambda self: type(self)(noise=9.0))


# Fitting ---------------------------------------------------------------------------------------------------------


def _zeros_change_sign(self, X, fitting):
    if isinstance(X, np.ndarray) and X.dtype == np.float64:
        X[X == 0] = -0.0


def _examples_with_zero(cls):
    found = RidgeDouble.examples()
    found[0].X[0, 0] = 0.0
    return found


def _warm_start(self, X, y) -> None:
    before = getattr(self, "coef_", None)
    RidgeDouble._fit(self, X, y)
    if before is not None:
        self.coef_ = (self.coef_ + before) / 2


def _remembers_rows(self, X):
    self.last_rows_ = X
    return RidgeDouble._predict_dist(self, X)


def _drifts(self, X):
    self._count = getattr(self, "_count", 0) + 1
    return shifted(RidgeDouble._predict_dist(self, X), 1e-9 * self._count)


returns_copy = system("fit_returns_self")
returns_copy.fit = lambda self, X, y=None: copy.copy(System.fit(self, X, y))
system("data_left_alone", _read_X=reads(_zeros_change_sign), examples=classmethod(_examples_with_zero))
learns_without_underscore = system("settings_left_alone", _fit=fits(lambda self, X, y: setattr(self, "learnt", 1)))
system("refit_equals_fresh", _fit=_warm_start)
system("predict_changes_nothing", _predict_dist=_remembers_rows)
system("predict_changes_nothing", _predict_dist=_drifts)


# Seeds and invariances -------------------------------------------------------------------------------------------


def _never_the_same(self, X, y) -> None:
    self.coef_ = self.coef_ + 1e-9 * time.perf_counter_ns() % 1e-6


def _likes_float32(self, X, fitting):
    if fitting:
        self._bonus = 0.1 if getattr(X, "dtype", None) == np.float32 else 0.0


system(
    "same_seed_same_result",
    FeaturesDouble,
    _fit=fits(_never_the_same, FeaturesDouble),
    also=("refit_equals_fresh", "prior_object_accepted", "labels_of_any_kind"),
)
system("seed_matters_as_tagged", tags=replace(RidgeDouble.tags, uses_seed=True))
system("seed_matters_as_tagged", FeaturesDouble, tags=replace(FeaturesDouble.tags, uses_seed=False))
system(
    "batch_split_invariance",
    _predict_dist=lambda self, X: shifted(RidgeDouble._predict_dist(self, X), 0.01 * len(X)),
)
system("row_order_invariance", _fit=fits(lambda self, X, y: self.coef_.add_(0.01 * np.tanh(X[0].sum()))))
system("column_order_invariance", _fit=fits(lambda self, X, y: self.coef_[0].add_(0.1)))
system(
    "float32_agrees_with_float64",
    _read_X=reads(_likes_float32),
    _fit=fits(lambda self, X, y: self.coef_.add_(self._bonus)),
)


# Predictions -----------------------------------------------------------------------------------------------------


def _codes_for_words(self, X):
    labels = RidgeDouble._predict(self, X)
    if self.task == "classification" and self.classes_.dtype.kind not in "iu":
        return np.searchsorted(self.classes_, labels)
    return labels


def _too_likely(self, X):
    return System.predict_proba.__get__(self)(X) * (1 + 1e-5)


def _numbers(change):
    def _predict(self, X):
        found = RidgeDouble._predict(self, X)
        return found if self.task == "classification" else change(found)

    return _predict


system("predictions_well_formed", _predict=_numbers(lambda found: found.astype(np.float32)))
system("distribution_agrees_with_predict", _predict=_numbers(lambda found: found + 1))
system("labels_of_any_kind", _predict=_codes_for_words)
system("transform_as_tagged", _transform=lambda self, X: RidgeDouble._transform(self, X)[:, 0])
too_likely = system("probabilities_sum_to_one", examples=classmethod(lambda cls: RidgeDouble.examples()[1:]))
too_likely.predict_proba = _too_likely


# The prior and its control arm -----------------------------------------------------------------------------------


def _prefers_objects(self, X, y) -> None:
    if isinstance(self.prior, Prior):
        self.coef_ = self.coef_ + 1


def _longer_without(self, X, y) -> None:
    self.n_steps_ += self.prior == "off"


def _wider_without(self, X, y) -> None:
    if self.prior == "off":
        self.second_ = nn.utils.skip_init(nn.Linear, 2, 2)


@record
@dataclass(frozen=True)
class NeverOffDouble(NormalDouble):
    def off(self) -> Prior:
        return self


def _longer_with_placebo(self, X, y) -> None:
    self.n_steps_ += self.prior == "wrong"


system("placebo_keeps_budget", FeaturesDouble, _fit=fits(_longer_with_placebo, FeaturesDouble))
system("placebo_keeps_budget", _wrong_prior=lambda self: self._paper_prior())
system("placebo_keeps_budget", _wrong_prior=lambda self: self._paper_prior().off())
system("prior_object_accepted", _fit=fits(_prefers_objects))
system("off_keeps_budget", FeaturesDouble, _fit=fits(_longer_without, FeaturesDouble))
system("off_keeps_budget", FeaturesDouble, _fit=fits(_wider_without, FeaturesDouble))
system("off_keeps_budget", _paper_prior=lambda self: NeverOffDouble())


# Saving ----------------------------------------------------------------------------------------------------------


def _rounded(self) -> State:
    state = RidgeDouble._state(self)
    return replace(state, tensors={name: value.half().double() for name, value in state.tensors.items()})


def _pickles(self, path):
    self._check_fitted()
    Path(path).write_bytes(pickle.dumps(vars(self)))
    return Path(path)


def _unpickles(cls, path, *, device="auto"):
    found = cls()
    vars(found).update(pickle.loads(Path(path).read_bytes()))
    return found


system("save_load_exact", _state=_rounded, tags=replace(RidgeDouble.tags, tolerance=0.05))
pickles = system("file_is_safetensors", also=("save_load_exact",))
pickles.save, pickles.load = _pickles, classmethod(_unpickles)
system(
    "tensors_on_device", _fit=fits(lambda self, X, y: setattr(self, "cache_", {"k": [torch.empty(2, device="meta")]}))
)


# The process it runs in ------------------------------------------------------------------------------------------


def _looks_up(self, X, y) -> None:
    with contextlib.suppress(OSError, RuntimeError):
        socket.getaddrinfo("localhost", 9)


def _calls_home(self, X, y) -> None:
    with contextlib.suppress(OSError, RuntimeError):
        socket.socket().connect(("127.0.0.1", 9))


def _sets_benchmark(self, X, y) -> None:
    torch.backends.cudnn.benchmark = True


system("global_random_state_untouched", _fit=fits(lambda self, X, y: np.random.rand()))  # noqa: NPY002
system("global_random_state_untouched", _fit=fits(lambda self, X, y: torch.rand(1)))
system("global_settings_untouched", _fit=fits(_sets_benchmark))
system("no_network", _fit=fits(_looks_up))
system("no_network", _fit=fits(_calls_home))
system("no_printing", _fit=fits(lambda self, X, y: sys.stderr.write("done\n")))
system("no_files_written", _fit=fits(lambda self, X, y: Path("left.txt").touch()))
system("only_own_warnings", _fit=fits(lambda self, X, y: warnings.warn("strange", RuntimeWarning, stacklevel=1)))


# Bad and extreme input -------------------------------------------------------------------------------------------


def _accepts_nothing(self, X, fitting):
    return np.zeros(X.shape) if fitting and getattr(X, "shape", ()) == (0, 3) else None


def _fits_nothing(self, X, y) -> None:
    RidgeDouble._fit(self, X if len(X) else np.zeros((1, 3)), y if len(y) else np.zeros(1))


def _breaks_on_infinity(self, X, fitting):
    if isinstance(X, np.ndarray) and X.dtype.kind == "f" and np.isinf(X).any():
        raise OverflowError("cannot convert float infinity to integer")


def _drops_columns(self, X, fitting):
    if not fitting and isinstance(X, np.ndarray) and X.ndim == 2 and X.shape[1] > self.n_features_in_:
        return RidgeDouble._read_X(self, X[:, : self.n_features_in_], fitting=False)


def _guesses_axes(self, X, fitting):
    if not fitting and isinstance(X, np.ndarray) and X.ndim == 1:
        return RidgeDouble._read_X(self, X[None].repeat(3, axis=0), fitting=False)


def _accepts_none(self, X, fitting):
    return np.zeros((1, self.n_features_in_)) if X is None and not fitting else None


def _needs_no_target(self, y, n_rows):
    return RidgeDouble._read_y(self, np.zeros(n_rows) if y is None and self.task == "regression" else y, n_rows)


def _none_is_off(self):
    return self._paper_prior().off() if self.prior is None else RidgeDouble._resolve_prior(self)


def _own_error_only(self) -> None:
    if not hasattr(self, "seed_"):
        raise errors.NotFittedError("not fitted")


system("empty_refused", _read_X=reads(_accepts_nothing), _fit=_fits_nothing)
system("one_row", _fit=fails_on(lambda X: len(X) == 1))
system("one_column", _fit=fails_on(lambda X: X.shape[1] == 1))
system("constant_data", _fit=fails_on(lambda X: len(X) > 1 and not np.ptp(X, axis=0).any()))
system("extreme_scales", _fit=fails_on(lambda X: np.abs(X).max() > 1e20))
system("missing_cells_as_tagged", tags=replace(RidgeDouble.tags, missing_values=True))
system(
    "missing_cells_as_tagged",
    FeaturesDouble,
    tags=Tags(uses_seed=True),
    _read_X=lambda self, X, fitting: errors_only(X),
)
system("infinite_cells", _read_X=reads(_breaks_on_infinity))
system("wrong_columns_refused", _read_X=reads(_drops_columns))
system("wrong_axes_refused", _read_X=reads(_guesses_axes))
system("wrong_types_refused", _read_X=reads(_accepts_none))
system("bad_targets_refused", _read_y=_needs_no_target)
system("bad_settings_refused", _check_settings=lambda self: None)
system("bad_prior_refused", _resolve_prior=_none_is_off)
system("not_fitted_refused", _check_fitted=_own_error_only)


def errors_only(X):
    from foreknow.common.validate import as_matrix

    return as_matrix("Double", X, allow_nan=True)


# Priors ----------------------------------------------------------------------------------------------------------


def _doubles_itself(self) -> None:
    object.__setattr__(self, "sd", 2 * self.sd)


def _always_single(self, n_tasks, n_rows, *, generator, device, dtype):
    return LinearDouble._draw(self, n_tasks, n_rows, generator=generator, device=device, dtype=torch.float32)


def _draws(change):
    def _draw(self, n_tasks, n_rows, **options):
        x, y, info = type(self).__mro__[1]._draw(self, n_tasks, n_rows, **options)
        return *change(x, y), info

    return _draw


def _with_nan(x, y):
    x[0, 0, 0] = torch.nan
    return x, y


def _deaf(self, n, *, generator, device=None, dtype=None):
    return NormalDouble.sample(self, n, generator=torch.Generator().manual_seed(3), device=device, dtype=dtype)


def _optional_generator(self, n, *, generator=None, device=None, dtype=None):
    return NormalDouble.sample(self, n, generator=generator, device=device, dtype=dtype)


def _any_size(self, n, *, generator, device=None, dtype=None):
    return NormalDouble.sample(self, max(1, int(float(n))), generator=generator, device=device, dtype=dtype)


def _one_generator(self, batch_size, *, seed, n_context, n_query, start=0, device="cpu"):
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield self.sample(batch_size, n_context=n_context, n_query=n_query, generator=generator)


def _wide_draws(self, n, *, generator, **options):
    return Draw(1.3 * NormalDouble.sample(self, n, generator=generator, **options).value)


def _impure(self, n, *, generator, **options):
    torch.rand(1)
    return NormalDouble.sample(self, n, generator=generator, **options)


def _talks(self, n, *, generator, **options):
    sys.stdout.write("drawing\n")
    return NormalDouble.sample(self, n, generator=generator, **options)


def _without_check(self, value, step):
    return value / (1 + step / self.sd**2)


def _hard(self, value, step):
    doubles.check_step(step)
    return torch.where(value.abs() > (2 * self.weight * torch.as_tensor(step)) ** 0.5, value, 0.0)


def _cuts_in_place(self, module):
    wired = BandDouble.wire(self, module)
    with torch.no_grad():
        module.weight.mul_(0.5)
    return wired


def _masks_once(self, module):
    wired = BandDouble.wire(self, module)
    plain = copy.deepcopy(module)
    with torch.no_grad():
        plain.weight.copy_(wired.weight)
    return plain


def _ties_once(self, module):
    plain = copy.deepcopy(module)
    with torch.no_grad():
        plain.weight.copy_(plain.weight.mean().expand_as(plain.weight))
    return plain


prior("card_complete", NormalDouble, card=BARE)
prior("expected_failures_exist", Sparse, expected_failures={"no_such_check": "for no reason"})
prior("examples_listed", Sparse, examples=classmethod(lambda cls: [cls(1.0)]))
prior("examples_listed", Sparse, examples=classmethod(lambda cls: [cls(1.0), cls(0.0)]))
prior("record_round_trip", NormalDouble, __post_init__=_doubles_itself)
prior("capabilities_honest", NormalDouble, capabilities=lambda self: frozenset({"samples", "penalty", "prox"}))
prior("off_works", NormalDouble, off=lambda self: type(self)(1e3, self.size + 1))
prior("off_keeps_targets", LinearDouble, off=lambda self: replace(self, noise=50.0))
prior("samples_as_declared", LinearDouble, _draw=_always_single)
prior("samples_as_declared", LinearDouble, _draw=_draws(_with_nan))
prior("tables_as_declared", SignDouble, _draw=_draws(lambda x, y: (x, 2 * y)))
prior("draws_seeded", NormalDouble, sample=_deaf)
prior("draws_seeded", NormalDouble, sample=_optional_generator)
prior("bad_sizes_refused", NormalDouble, sample=_any_size)
prior("stream_resumable", LinearDouble, stream=_one_generator)
prior("rows_exchangeable", LinearDouble, _draw=_draws(lambda x, y: (x, y + torch.arange(y.shape[1]))))
prior("rows_exchangeable", LinearDouble, _draw=_draws(lambda x, y: (x.sort(dim=1).values, y)))
prior("one_number_per_value", Sparse, penalty=lambda self, value: Sparse.penalty(self, value).double())
prior("density_normalised", NormalDouble, log_prob=lambda self, value: NormalDouble.log_prob(self, value) + 0.2)
prior("draws_follow_density", NormalDouble, sample=_wide_draws)
prior(
    "penalty_is_minus_log_density",
    NormalDouble,
    log_prob=lambda self, value: NormalDouble.log_prob(NormalDouble(1.01 * self.sd, self.size), value),
)
prior("gradient_matches_differences", NormalDouble, grad=lambda self, value: 1.01 * value / self.sd**2)
prior("prox_well_formed", NormalDouble, prox=_without_check)
prior(
    "prox_firmly_non_expansive",
    Sparse,
    penalty=lambda self, value: self.weight * (value != 0).to(value).sum(-1),
    grad=lambda self, value: torch.zeros_like(value),
    prox=_hard,
)
prior("prox_optimal", Sparse, prox=lambda self, value, step: Sparse.prox(Sparse(0.5 * self.weight), value, step))
prior("wire_leaves_original", BandDouble, wire=_cuts_in_place)
prior("wire_acts_as_declared", BandDouble, wire=lambda self, module: copy.deepcopy(module))
prior("structure_survives_training", BandDouble, wire=_masks_once)
prior("structure_survives_training", BandDouble, wire=_ties_once, off=lambda self: BandDouble(10**6))
prior("space_given", ChoiceDouble, space=lambda self: None)
prior("global_random_state_untouched", NormalDouble, sample=_impure)
prior("process_untouched", NormalDouble, sample=_talks)


# Arrays, worlds and further inputs -------------------------------------------------------------------------------


def spoils(self, X, y, network=None) -> None:
    FieldDouble._fit(self, X, y, network)
    if network is not None:
        network.train(not network.training)


def one_number(self, X) -> Any:
    return FieldDouble._predict(self, X).mean((1, 2, 3))


def any_world(self, X, *, fitting) -> Any:
    return Slope() if isinstance(X, str) else WorldDouble._read_X(self, X, fitting=fitting)


def any_rank(self, X, *, fitting) -> Any:
    lacks_axis = isinstance(X, np.ndarray) and X.ndim == 3
    return FieldDouble._read_X(self, X[None] if lacks_axis else X, fitting=fitting)


def reads_more(folder: Path) -> None:
    (folder / "note.txt").write_text("other", encoding="utf-8")


system("data_left_alone", FieldDouble, _fit=spoils)
system("predictions_well_formed", FieldDouble, _predict=one_number)
system("wrong_types_refused", WorldDouble, _read_X=any_world)
system("wrong_axes_refused", FieldDouble, _read_X=any_rank)
system(
    "save_load_exact", FieldDouble, also=("tensors_on_device",),
    _save_folder=lambda self, folder: reads_more(folder),
)  # fmt: skip
