"""A list of texts as two arrays, so that it can lie in a file and be read from there one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Strings:
    """Texts in UTF-8, one after the other.

    Args:
        data: their bytes.
        ends: where each ends, shape (n,).
    """

    data: NDArray[np.uint8]
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, texts: Sequence[str]) -> Strings:
        """The list of `texts`; halves of characters are replaced."""
        parts = [text.encode("utf-8", "replace") for text in texts]
        ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
        return cls(np.frombuffer(b"".join(parts), dtype=np.uint8), ends)

    @property
    def n_bytes(self) -> int:
        """Size of both arrays."""
        return self.data.nbytes + self.ends.nbytes

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, number: int | np.integer) -> str:
        i = int(number)
        begin = int(self.ends[i - 1]) if i else 0
        return self.data[begin : int(self.ends[i])].tobytes().decode("utf-8", "replace")
