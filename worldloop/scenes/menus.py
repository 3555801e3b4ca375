"""Menus: what there is to choose from, as arrays, so that many scenes choose at once.

A choice is the one that `draws.pick` and `draws.sample` make of the same numbers.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Rows = NDArray[np.int64]
NONE = -1
"""Stands in an array of choices where there is none."""


class Menu:
    """Rows of alternatives one after another; equal rows are kept once, and row 0 is empty.

    Attributes:
        items: The alternatives of all rows; those at the end are not used yet.

    Example:
        >>> menu = Menu()
        >>> fruits = menu.row(("apple", "pear", "plum"))
        >>> chosen = menu.sample(np.array([fruits, 0]), np.array([4, 4], np.uint64), np.array([2, 2]))
        >>> menu.tuples(chosen)
        [('pear', 'plum'), ()]
    """

    def __init__(self, dtype: DTypeLike = object):
        """A menu without rows.

        Args:
            dtype: Of the alternatives; `object` for records.
        """
        self.items: NDArray[Any] = np.empty(256, dtype)
        self._starts, self._sizes = np.zeros((2, 256), np.int64)
        self._known: dict[tuple[object, ...], int] = {(): 0}
        self._num_items = 0

    def row(self, choices: Sequence[Any]) -> int:
        """The number of a row; rows of the same records are one."""
        is_records = self.items.dtype == object
        key = tuple(map(id, choices)) if is_records else tuple(choices)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = len(self._known)
            self._put(found, choices)
        return found

    def _put(self, row: int, choices: Sequence[Any]) -> None:
        first, last = self._num_items, self._num_items + len(choices)
        self.items = _grown(self.items, last)
        self._starts, self._sizes = _grown(self._starts, row + 1), _grown(self._sizes, row + 1)
        for number, choice in enumerate(choices, first):  # records are not to be taken for arrays
            self.items[number] = choice
        self._starts[row], self._sizes[row], self._num_items = first, len(choices), last

    def pick(self, rows: Rows, numbers: NDArray[np.unsignedinteger]) -> Rows:
        """One alternative of each row, evenly.

        Args:
            rows: Of the menu, any shape.
            numbers: Random, below 2**32, the same shape.

        Returns:
            Indices of `items`, `NONE` where a row is empty.
        """
        sizes = self._sizes[rows]
        chosen = (numbers.astype(np.int64) * sizes) >> 32
        return np.where(sizes > 0, self._starts[rows] + chosen, NONE)

    def sample(self, rows: Rows, numbers: NDArray[np.unsignedinteger], counts: Rows) -> Rows:
        """Some alternatives of each row without repetition, in random order.

        Args:
            rows: Of the menu, shape (n,).
            numbers: Random, below 2**32, shape (n,).
            counts: How many of each, shape (n,); all there are if these are fewer.

        Returns:
            Indices of `items`, shape (n, largest count), `NONE` at the end of rows with fewer.
        """
        sizes, left = self._sizes[rows], numbers.astype(np.int64)
        chosen = np.full((len(rows), int(counts.max(initial=0))), NONE)
        for step in range(chosen.shape[1]):
            left, index = np.divmod(left, np.maximum(sizes - step, 1))
            for other in np.sort(chosen[:, :step], axis=1).T:  # count only those that are left
                index += (other != NONE) & (index >= other)
            chosen[:, step] = np.where(step < np.minimum(counts, sizes), index, NONE)
        return np.where(chosen == NONE, NONE, self._starts[rows][:, None] + chosen)

    def whole(self, rows: Rows) -> Rows:
        """All alternatives of each row in their order, as `sample` gives some."""
        sizes = self._sizes[rows]
        steps = np.arange(sizes.max(initial=0))
        return np.where(steps < sizes[:, None], self._starts[rows][:, None] + steps, NONE)

    def tuples(self, chosen: Rows) -> list[tuple[Any, ...]]:
        """The alternatives of each row of an array of indices of `items`, without those that are `NONE`."""
        is_there = chosen != NONE
        flat = tuple(self.items[chosen[is_there]].tolist())
        return list(cut(flat, is_there.sum(axis=1).tolist()))


def cut(flat: tuple[Any, ...], counts: Sequence[int]) -> Iterable[tuple[Any, ...]]:
    """Parts of a tuple that follow on each other, by how many each has."""
    return (flat[first:last] for first, last in pairwise(accumulate(counts, initial=0)))


def _grown(array: NDArray[Any], needed: int) -> NDArray[Any]:
    """The same array, with room for as many as are needed."""
    if needed <= len(array):
        return array
    grown = np.zeros(max(needed, 2 * len(array)), array.dtype)
    grown[: len(array)] = array
    return grown
