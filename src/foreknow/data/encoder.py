"""One encoder for every tabular system: columns of any kind become numbers, by the context rows alone.

Nothing is scaled or imputed here; `Standardizer` scales, and the systems decide what to do about missing cells.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from foreknow.common.errors import CheckpointError, ForeknowWarning, InputError, NotFittedError
from foreknow.common.validate import check_int, check_option, suggest
from foreknow.core.records import from_json, record, to_json
from foreknow.data.cells import FALSE_WORDS, KINDS, TRUE_WORDS, Kind
from foreknow.data.standardizer import column_statistics
from foreknow.data.table import Column, Table

_IDENTIFIER_ROWS = 50  # in fewer rows a true category can be all distinct by chance
_OTHER = "(other)"


@record
@dataclass(frozen=True)
class EncoderSettings:
    """How a table becomes numbers.

    Args:
        categories: "ordinal" gives a category one column of level codes, "onehot" one column of 0 and 1 per level.
        max_levels: levels kept per category, the most frequent ones; the rest of the context's levels are pooled.

    Raises:
        ConfigError: another value.
    """

    categories: str = "ordinal"
    max_levels: int = 32

    def __post_init__(self) -> None:
        check_option("EncoderSettings", "categories", self.categories, ("ordinal", "onehot"))
        check_int("EncoderSettings", "max_levels", self.max_levels, low=2)


@dataclass(frozen=True)
class EncodingNote:
    """What was done to one column of the user's table, for reports.

    Args:
        column: its name.
        action: "kept", "encoded" or "dropped".
        reason: a few words, for instance "constant" or "3 levels as codes".
    """

    column: str
    action: str
    reason: str


@dataclass(frozen=True, eq=False)
class Encoded:
    """An encoded table.

    Args:
        x: shape (n, p), float64, NaN where missing.
        is_categorical: shape (p,), True where `x` holds codes of levels 0, 1, ... without order or scale.
        missing: shape (n, p), True where `x` is NaN.
        names: of the p columns; a 0/1 column of a level is called `column=level`.
    """

    x: NDArray[np.float64]
    is_categorical: NDArray[np.bool_]
    missing: NDArray[np.bool_]
    names: tuple[str, ...]


@dataclass(frozen=True)
class _Plan:
    """What is done to one column of the input; `levels` are in the order of their codes."""

    name: str
    kind: Kind
    dropped: bool = False
    levels: tuple[str, ...] = ()
    pooled: tuple[str, ...] = ()

    def outputs(self, onehot: bool) -> list[str]:
        if self.dropped:
            return []
        if self.kind == "categorical" and onehot:
            return [f"{self.name}={level}" for level in self.levels + ((_OTHER,) if self.pooled else ())]
        return [self.name]


class TableEncoder:
    """Learns from the context rows how the columns of a table become numbers, and does it to any rows.

    Dropped: columns without a value, columns with one value in every row, and text that is different in every
    one of more than 50 rows (a name or number of the row). A column of one value and missing cells is kept,
    since which cells are missing may tell something. Numbers stay as they are, booleans become 0 and 1, dates
    seconds since 1970-01-01 UTC, categories codes or 0/1 columns of levels ordered by name. A level that the
    context does not have counts as missing. Nothing depends on the order of the rows.

    Args:
        settings: how categories are encoded.
        owner: the system that asks, for the messages.

    Attributes:
        notes_: one `EncodingNote` per column of the context, in its order.
        names_: names of the encoded columns.
        medians_, means_, scales_: statistics of the encoded columns (`scales_`: standard deviation), shape (p,);
            NaN for codes.
    """

    notes_: list[EncodingNote]
    names_: tuple[str, ...]
    medians_: NDArray[np.float64]
    means_: NDArray[np.float64]
    scales_: NDArray[np.float64]

    def __init__(self, settings: EncoderSettings | None = None, *, owner: str = "TableEncoder") -> None:
        self.settings = settings or EncoderSettings()
        self.owner = owner
        self._plans: list[_Plan] = []
        self._named = False

    @property
    def schema(self) -> dict[str, Kind]:
        """Name -> kind of the columns of the context, in its order; also of those that are dropped."""
        return {plan.name: plan.kind for plan in self._plans}

    @property
    def named(self) -> bool:
        """Whether these names are the user's own; False for arrays, whose columns are matched by position."""
        return self._named

    def fit(self, table: Table) -> TableEncoder:
        """Learn from the context rows.

        Raises:
            InputError: no column is left to learn from.
        """
        planned = [self._plan(column) for column in table.columns]
        if all(plan.dropped for plan, _ in planned):
            shown = "; ".join(f"{note.column!r}: {note.reason}" for _, note in planned[:5])
            raise InputError(
                f"{self.owner}: no usable column is left in X (n_samples={table.n_rows}): {shown}.",
                hint="Pass more rows, or columns that vary from row to row.",
            )
        self._plans = [plan for plan, _ in planned]
        self._named = table.named
        self.notes_ = [note for _, note in planned]
        self._set_names()
        encoded = self.transform(table)
        statistics = column_statistics(encoded.x)
        statistics[:, encoded.is_categorical] = np.nan
        self.medians_, self.means_, self.scales_ = statistics
        return self

    def transform(self, table: Table) -> Encoded:
        """Encode any rows. Columns are found by name if both tables have names of the user's, else by position.

        Raises:
            NotFittedError: before `fit`.
            InputError: a column is missing, or most of its cells are of another kind than at fit.
        """
        if not self._plans:
            raise NotFittedError(f"{self.owner}: transform was called before fit.", hint="Call fit first.")
        used = [plan for plan in self._plans if not plan.dropped]
        parts: list[NDArray[np.float64]] = []
        categorical: list[bool] = []
        for plan, column in zip(used, self._match(table)):
            values = self._turn(plan, column).values
            if plan.kind != "categorical":
                parts.append(values)
                categorical.append(False)
                continue
            code_of: dict[str | None, float] = {level: float(code) for code, level in enumerate(plan.levels)}
            code_of.update(dict.fromkeys(plan.pooled, float(len(plan.levels))))
            codes = np.array([code_of.get(value, np.nan) for value in values], dtype=np.float64)
            if self.settings.categories == "ordinal":
                parts.append(codes)
                categorical.append(True)
                continue
            for code in range(len(plan.outputs(onehot=True))):
                parts.append(np.where(np.isnan(codes), np.nan, codes == code))
                categorical.append(False)
        x = np.column_stack(parts)
        return Encoded(x, np.array(categorical, dtype=bool), np.isnan(x), self.names_)

    def state(self) -> tuple[dict[str, NDArray[np.float64]], dict[str, Any]]:
        """What was learnt, as arrays and JSON types, for a checkpoint. It names the levels of the context."""
        if not self._plans:
            raise NotFittedError(f"{self.owner}: state was called before fit.", hint="Call fit first.")
        tensors = {"medians": self.medians_, "means": self.means_, "scales": self.scales_}
        meta = {
            "settings": to_json(self.settings),
            "owner": self.owner,
            "named": self._named,
            "plans": [
                {**asdict(plan), "levels": list(plan.levels), "pooled": list(plan.pooled)} for plan in self._plans
            ],
            "notes": [[note.column, note.action, note.reason] for note in self.notes_],
        }
        return tensors, meta

    @classmethod
    def from_state(cls, tensors: Mapping[str, NDArray[np.float64]], meta: Mapping[str, Any]) -> TableEncoder:
        """The encoder that `state` described.

        Raises:
            CheckpointError: something is missing, malformed, or of the wrong shape.
        """
        try:
            settings = from_json(meta["settings"])
            if not isinstance(settings, EncoderSettings):
                raise CheckpointError(f"the file's encoder has settings of kind {type(settings).__name__}.")
            encoder = cls(settings, owner=str(meta["owner"]))
            encoder._named = bool(meta["named"])
            encoder._plans = [_read_plan(plan) for plan in meta["plans"]]
            encoder.notes_ = [EncodingNote(str(column), str(action), str(why)) for column, action, why in meta["notes"]]
            encoder._set_names()
            if not encoder.names_:
                raise CheckpointError("the file's encoder has no columns.")
            for name in ("medians", "means", "scales"):
                values = np.asarray(tensors[name], dtype=np.float64)
                if values.shape != (len(encoder.names_),):
                    raise CheckpointError(
                        f"the file's encoder has {name} of shape {values.shape}, expected ({len(encoder.names_)},)."
                    )
                setattr(encoder, f"{name}_", values)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"the file's encoder cannot be built: {type(error).__name__} {error}.") from error
        return encoder

    def _set_names(self) -> None:
        onehot = self.settings.categories == "onehot"
        self.names_ = tuple(name for plan in self._plans for name in plan.outputs(onehot))

    def _plan(self, column: Column) -> tuple[_Plan, EncodingNote]:
        def done(action: str, reason: str, **learnt: Any) -> tuple[_Plan, EncodingNote]:
            plan = _Plan(column.name, column.kind, dropped=action == "dropped", **learnt)
            return plan, EncodingNote(column.name, action, reason)

        missing = column.missing
        present = column.values[~missing]
        if len(present) == 0:
            return done("dropped", "all missing")
        if not missing.any() and bool(np.all(present == present[0])):
            return done("dropped", "constant")
        if column.kind == "numeric":
            return done("kept", "numbers as they are")
        if column.kind == "boolean":
            return done("encoded", "booleans as 0 and 1")
        if column.kind == "date":
            return done("encoded", "dates as seconds")
        counts = Counter(present.tolist())
        if len(counts) == len(present) > _IDENTIFIER_ROWS:
            return done("dropped", f"identifier: {len(present)} different texts in {len(present)} rows")
        by_count = sorted(counts, key=lambda level: (-counts[level], level))
        levels = tuple(sorted(by_count[: self.settings.max_levels]))
        pooled = tuple(sorted(by_count[self.settings.max_levels :]))
        form = "codes" if self.settings.categories == "ordinal" else "0/1 columns"
        rest = f", {len(pooled)} rarer ones pooled" if pooled else ""
        return done(
            "encoded", f"{len(levels)} level{'s' * (len(levels) > 1)} as {form}{rest}", levels=levels, pooled=pooled
        )

    def _match(self, table: Table) -> list[Column]:
        """The columns of `table` for the plans that are used, in their order."""
        if not (self._named and table.named):
            if table.n_columns != len(self._plans):
                raise InputError(
                    f"X has {table.n_columns} features, but {self.owner} is expecting {len(self._plans)} features "
                    "as input."
                )
            return [column for plan, column in zip(self._plans, table.columns) if not plan.dropped]
        needed = [plan.name for plan in self._plans if not plan.dropped]
        by_name = {column.name: column for column in table.columns}
        lacking = [name for name in needed if name not in by_name]
        if lacking:
            raise InputError(
                f"{self.owner}: X lacks {len(lacking)} column(s) that were there at fit: "
                f"{', '.join(map(repr, lacking[:10]))}.",
                hint=suggest(lacking[0], table.names),
            )
        known = {plan.name for plan in self._plans}
        extra = [name for name in table.names if name not in known]
        if extra:
            warnings.warn(
                f"{self.owner}: {len(extra)} column(s) of X were not there at fit and are ignored: "
                f"{', '.join(map(repr, extra[:10]))}.",
                ForeknowWarning,
                stacklevel=3,
            )
        return [by_name[name] for name in needed]

    def _turn(self, plan: _Plan, column: Column) -> Column:
        """`column` as the kind it had at fit."""
        if (column.kind, plan.kind) == ("boolean", "categorical"):
            # Rows that hold only yes and no read as booleans, although the context has a third level.
            words = {level.lower(): level for level in plan.levels + plan.pooled}
            yes, no = (
                next((words[w] for w in sorted(known) if w in words), None) for known in (TRUE_WORDS, FALSE_WORDS)
            )
            values = np.array([None if np.isnan(v) else yes if v else no for v in column.values], dtype=object)
            return Column(column.name, "categorical", values)
        turned, bad = column.as_kind(plan.kind)
        if bad.any():
            row = int(np.argmax(bad))
            n_present = int((~column.missing).sum())
            said = (
                f"{self.owner}: column {column.name!r} was {plan.kind} at fit, but {int(bad.sum())} of {n_present} "
                f"cells are not, first at row {row}: {column.values[row]!r:.60}"
            )
            if 2 * bad.sum() > n_present:
                raise InputError(f"{said}.", hint="Pass the column as it was at fit.")
            warnings.warn(f"{said}; taken as missing.", ForeknowWarning, stacklevel=3)
        return turned


def _read_plan(plan: Mapping[str, Any]) -> _Plan:
    return _Plan(
        name=str(plan["name"]),
        kind=cast(Kind, check_option("encoder", "kind", plan["kind"], KINDS)),
        dropped=bool(plan["dropped"]),
        levels=tuple(map(str, plan["levels"])),
        pooled=tuple(map(str, plan["pooled"])),
    )
