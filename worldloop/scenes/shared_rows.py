"""Rows of which many are alike, kept once each: most days of most places look like others."""

import hashlib
import math
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Number = TypeVar("Number", bound=np.generic)


class SharedRows(Generic[Number]):
    """A table that is read like an array and takes the memory of its different rows alone.

    Rows that were not put are zeros.

    Attributes:
        rows: The different rows, shape (as many as there may be, width); the first is zeros.
        numbers: Which of them each entry has, uint32.

    Example:
        >>> table = SharedRows((2, 3), 2, np.uint8)
        >>> table.put(1, [[1, 2], [0, 0], [1, 2]])
        >>> table[np.array([0, 1]), np.array([2, 2])].tolist()
        [[0, 0], [1, 2]]
    """

    def __init__(self, shape: tuple[int, ...], width: int, dtype: type[Number]):
        """A table of zeros.

        Args:
            shape: Of the entries.
            width: Numbers of a row.
            dtype: Of the rows.
        """
        # Zeros that nobody wrote over take no memory, so there may be room for every row.
        self.rows: NDArray[Number] = np.zeros((math.prod(shape) + 1, width), dtype)
        self.numbers = np.zeros(shape, np.uint32)
        self._known = {_digest(self.rows[0].tobytes()): 0}

    def __getitem__(self, entries: Any) -> NDArray[Number]:
        """Rows of the entries that an array of this shape has there; never to be written to."""
        found: NDArray[Number] = self.rows[self.numbers[entries]]
        return found

    def put(self, first: int, rows: ArrayLike) -> None:
        """Set the rows of all entries whose first index is given, shape (entries, width)."""
        cells = np.ascontiguousarray(rows, self.rows.dtype)
        packed = cells.view(np.dtype((np.void, cells[0].nbytes)))[:, 0].tolist()
        self.numbers[first] = [self._number(row) for row in packed]

    def _number(self, row: bytes) -> int:
        digest = _digest(row)
        number = self._known.get(digest)
        if number is None:
            number = self._known[digest] = len(self._known)
            self.rows[number] = np.frombuffer(row, self.rows.dtype)
        return number


def _digest(row: bytes) -> bytes:
    return hashlib.blake2b(row, digest_size=16).digest()
