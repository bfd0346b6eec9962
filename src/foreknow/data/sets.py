"""The small real tables that come with the source: what they are, whose they are, and where they lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from foreknow.common.errors import InputError
from foreknow.core.records import record


@record
@dataclass(frozen=True)
class Dataset:
    """A table that is shipped with the source code (not with the installed package).

    Args:
        name: short name.
        path: of the file, relative to the folder that holds `pyproject.toml`.
        target: the column that is usually predicted.
        source: who measured and who published it.
        licence: SPDX identifier.
    """

    name: str
    path: str
    target: str
    source: str
    licence: str

    def locate(self) -> Path:
        """The file in this source tree.

        Raises:
            InputError: the library runs from an installed package, which has no examples.
        """
        file = Path(__file__).parents[3] / self.path
        if not file.is_file():
            raise InputError(
                f"the data set {self.name!r} is not at {str(file)!r}: examples come with the source code only.",
                hint=f"Get {self.path} from the repository of foreknow and name the file.",
            )
        return file


penguins = Dataset(
    name="penguins",
    path="examples/penguins.csv",
    target="species",
    source="Gorman, Williams & Fraser (2014), PLoS ONE 9(3): e90081; palmerpenguins: Horst, Hill & Gorman (2020)",
    licence="CC0-1.0",
)
