"""Tiles of a video's tokens, and which tiles attend to which: the arithmetic of sparse attention.

Tokens of a clip stand in a grid of (frames, rows, columns). A tile is a box of 128 neighbouring
tokens; a tile attends to the tiles in a window around it and to nothing else. At the borders the
window is shifted inwards, so that every tile attends to equally many. Where tiles do not divide
the grid, the last ones are filled up with tokens that nothing attends to.
"""

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

TILE_TOKENS = 128  # a block of the attention kernel
PADDING = -1  # in `Tiling.order`, a token that is not there
_SIDES = (1, 2, 4, 8, 16, 32, 64, 128)

Grid = tuple[int, int, int]


@dataclass(frozen=True)
class Tiling:
    """A grid of tokens cut into tiles.

    Attributes:
        grid: Tokens as (frames, rows, columns).
        tile: Tokens of a tile, likewise; their product is `TILE_TOKENS`.
    """

    grid: Grid
    tile: Grid

    @property
    def tiles(self) -> Grid:
        """Tiles as (along time, down, across)."""
        nt, nh, nw = (-(-side // step) for side, step in zip(self.grid, self.tile, strict=True))
        return nt, nh, nw

    @property
    def num_tokens(self) -> int:
        """Real tokens."""
        return math.prod(self.grid)

    @property
    def num_tiles(self) -> int:
        """Tiles, each with at least one real token."""
        return math.prod(self.tiles)

    def order(self) -> NDArray[np.int64]:
        """For each place in tile order the number of its token in grid order, or `PADDING`.

        Example:
            >>> Tiling((2, 8, 8), (2, 8, 8)).order()[:3]
            array([0, 1, 2])
        """
        padded = [count * step for count, step in zip(self.tiles, self.tile, strict=True)]
        numbers = np.full(padded, PADDING, np.int64)
        t, h, w = self.grid
        numbers[:t, :h, :w] = np.arange(self.num_tokens).reshape(self.grid)
        (nt, nh, nw), (st, sh, sw) = self.tiles, self.tile
        boxes = numbers.reshape(nt, st, nh, sh, nw, sw).transpose(0, 2, 4, 1, 3, 5)
        return boxes.reshape(-1)


@dataclass(frozen=True)
class Window:
    """Which tiles a tile attends to.

    Attributes:
        tiling: The tiles.
        size: Tiles of the window along (time, down, across).
    """

    tiling: Tiling
    size: Grid

    @property
    def density(self) -> float:
        """Share of all tiles that a tile attends to."""
        return math.prod(self.size) / self.tiling.num_tiles

    def neighbours(self) -> NDArray[np.int32]:
        """Numbers of the tiles that each tile attends to, ascending, shape (tiles, window tiles)."""
        axes = [
            _starts(count, span)[:, None] + np.arange(span)
            for count, span in zip(self.tiling.tiles, self.size, strict=True)
        ]
        _, nh, nw = self.tiling.tiles
        t, h, w = axes
        numbers = (
            t[:, None, None, :, None, None] * (nh * nw)
            + h[None, :, None, None, :, None] * nw
            + w[None, None, :, None, None, :]
        )
        return np.ascontiguousarray(numbers.reshape(self.tiling.num_tiles, -1).astype(np.int32))


def _starts(count: int, span: int) -> NDArray[np.int64]:
    """First tile of the window of each tile along one axis, kept inside the grid."""
    return np.clip(np.arange(count) - span // 2, 0, count - span)


def tiling(grid: Grid) -> Tiling:
    """Cut a grid into tiles of 128 tokens that need little filling and are much like a cube.

    A grid of fewer tokens than that becomes few tiles, most of each filled up.

    Example:
        >>> tiling((16, 44, 80)).tile
        (4, 4, 8)
        >>> tiling((24, 27, 48)).num_tiles
        252
    """
    tiles = [
        Tiling(grid, (t, h, w)) for t, h, w in product(_SIDES, repeat=3) if t * h * w == TILE_TOKENS
    ]
    return min(tiles, key=_waste)


def _padded_share(one: Tiling) -> float:
    return 1.0 - one.num_tokens / (one.num_tiles * TILE_TOKENS)


def _waste(one: Tiling) -> tuple[float, tuple[int, ...]]:
    """Filling against surface: an eighth of filling is as bad as twice the surface."""
    t, h, w = one.tile
    surface = t * h + h * w + t * w
    return round(8.0 * _padded_share(one) + math.log2(surface), 6), one.tile


def window(tiles: Tiling, density: float) -> Window:
    """A window of at most a density (and one percent of it) that comes near to it and reaches equally far in all directions.

    Reach is measured in tokens; in time half of it is enough, because frames of a latent are further
    apart than its columns. A grid of few tiles can only come as near as one tile.

    Args:
        tiles: The tiles.
        density: Share of tiles to attend to, in (0, 1].

    Example:
        >>> chosen = window(tiling((16, 44, 80)), 0.15)
        >>> chosen.size, round(chosen.density, 3)
        ((3, 7, 3), 0.143)
    """
    if density >= 1.0:
        return Window(tiles, tiles.tiles)
    spans = [range(1, count + 1) for count in tiles.tiles]
    sizes = [Window(tiles, (t, h, w)) for t, h, w in product(*spans)]
    near = [one for one in sizes if density / 4 <= one.density <= 1.01 * density] or sizes[:1]
    return min(near, key=lambda one: (_miss(one, density) + _skew(one), one.size))


def _miss(one: Window, density: float) -> float:
    """How far a window stays below a density: a quarter less counts as much as doubled skew."""
    return round(2.4 * math.log2(density / one.density), 6) if one.density < density else 0.0


def _skew(one: Window) -> float:
    """How unlike a ball around its tile a window is, where tokens of time count double."""
    reach = [
        min(span * step, side)
        for span, step, side in zip(one.size, one.tiling.tile, one.tiling.grid, strict=True)
    ]
    lengths = np.log2([2.0 * reach[0], *reach[1:]])
    lopsided = [
        span % 2 == 0 and span < count
        for span, count in zip(one.size, one.tiling.tiles, strict=True)
    ]
    return float(np.round(np.ptp(lengths) + 0.2 * sum(lopsided), 6))
