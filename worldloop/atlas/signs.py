"""Signs as images: the outlines of every text of the atlas, filled at whatever height is wanted.

`outlines.npz.xz` holds the shaped texts, so that no clip depends on a machine's fonts: each glyph once, as
polygons on a grid of `GRID` units to the em, and each text as glyphs with their places. `bake_signs.py` writes
it. Filling is integer arithmetic from end to end, so a mask has the same bytes on every machine.

Arrays of the archive (zero-based; a polygon is closed by its first point):

- `texts`: UTF-8 JSON, texts by language; `runs` lie in the same order.
- `text_sizes`: glyphs of each text. `glyphs`, `steps`, `lifts`: of each run its glyph, the way along the line
  from the run before it, and its height above the line.
- `glyph_sizes`: polygons of each glyph. `polygon_sizes`: points of each polygon.
- `starts`: (polygons, 2) first points. `edges`: (points - polygons, 2) int8, from each point to the next.
"""

import io
import json
import lzma
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from worldloop.atlas.csv_tables import DATA
from worldloop.errors import UnknownKeyError

HEIGHT_PX = 40
GRID = 256  # units to the em
LEVEL = 17  # masks have 16 levels: 255 = 15 * 17
_FINE = 4  # samples a pixel, along either axis
_LEVELS = ((np.arange(_FINE**2 + 1) * 15 + 8) // _FINE**2 * LEVEL).astype(np.uint8)  # of samples
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Outlines:
    """The outlines of the archive, ready to be looked up.

    Attributes:
        texts: Number of each text by language.
        runs: First run of each text; one more at the end.
        glyphs: Glyph of each run.
        places: (runs, 2), where each run's origin lies in its text, y upwards.
        shapes: First edge of each glyph; one more at the end.
        begins: (edges, 2), where each edge of a glyph begins, seen from the glyph's origin.
        ends: As `begins`.
    """

    texts: dict[str, dict[str, int]]
    runs: Ints
    glyphs: Ints
    places: Ints
    shapes: Ints
    begins: Ints
    ends: Ints


def sign_image(language: str, text: str, height_px: int = HEIGHT_PX) -> NDArray[np.uint8]:
    """The mask of a text as it stands on a sign, 0 (board) to 255 (letter).

    It is trimmed on all sides, shaped for its script and in reading order as one sees it.

    Args:
        language: BCP 47 tag, e.g. `ja`.
        text: What is written, exactly as `Sign.text` has it.
        height_px: Rows of the mask; outlines are fine enough for about 160.

    Returns:
        uint8, shape (height_px, width), multiples of 17. Read-only.

    Raises:
        UnknownKeyError: If that text was not baked in that language.

    Example:
        >>> sign_image("ja", "病院").shape[0]
        40
    """
    texts = outlines().texts
    if language not in texts:
        raise UnknownKeyError("sign language", language, texts)
    if text not in texts[language]:
        raise UnknownKeyError(f"sign in {language!r}", text, texts[language])
    return _mask(texts[language][text], height_px)


def sign_texts() -> dict[str, tuple[str, ...]]:
    """Every text that has outlines, by language."""
    return {language: tuple(texts) for language, texts in outlines().texts.items()}


@cache
def outlines() -> Outlines:
    """The outlines of this version of worldloop, read once per process."""
    packed = lzma.decompress((DATA / "outlines.npz.xz").read_bytes())
    with np.load(io.BytesIO(packed)) as arrays:
        sizes = {name: arrays[name].astype(np.int64) for name in arrays.files if name != "texts"}
        names: dict[str, list[str]] = json.loads(arrays["texts"].tobytes())
    number = iter(range(len(sizes["text_sizes"])))
    runs, points = _begins(sizes["text_sizes"]), _begins(sizes["polygon_sizes"])
    steps = np.insert(sizes["edges"], points[:-1] - np.arange(len(points) - 1), 0, axis=0)
    begins = _running(steps, points) + np.repeat(sizes["starts"], sizes["polygon_sizes"], 0)
    following = np.arange(1, len(begins) + 1)
    following[points[1:] - 1] = points[:-1]
    return Outlines(
        texts={tag: {text: next(number) for text in texts} for tag, texts in names.items()},
        runs=runs,
        glyphs=sizes["glyphs"],
        places=np.stack([_running(sizes["steps"], runs), sizes["lifts"]], 1),
        shapes=points[_begins(sizes["glyph_sizes"])],
        begins=begins,
        ends=begins[following],
    )


def _begins(sizes: Ints) -> Ints:
    """Where each of some groups begins, and where the last one ends."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])


def _running(steps: Ints, begins: Ints) -> Ints:
    """Sums along the first axis that start anew with each group."""
    total = np.cumsum(steps, 0)
    sizes = np.diff(begins)
    before = (total - steps)[np.minimum(begins[:-1], len(steps) - 1)]
    sums: Ints = total - np.repeat(before, sizes, 0)
    return sums


@lru_cache(maxsize=1024)
def _mask(text: int, height_px: int) -> NDArray[np.uint8]:
    """The mask of a text by number."""
    begins, ends = _edges(text)
    low, high = np.minimum(begins.min(0), ends.min(0)), np.maximum(begins.max(0), ends.max(0))
    size = high - low
    width_px = max(1, int((2 * size[0] * height_px + size[1]) // (2 * size[1])))
    inside = _filled(
        (begins - low) * (1, -1) + (0, size[1]),
        (ends - low) * (1, -1) + (0, size[1]),
        size,
        (width_px * _FINE, height_px * _FINE),
    )
    rows = inside.view(np.uint8).reshape(height_px, _FINE, -1).sum(1, dtype=np.uint8)
    covered = sum(rows[:, column::_FINE] for column in range(_FINE))
    mask: NDArray[np.uint8] = _LEVELS[covered]
    mask.setflags(write=False)
    return mask


def _edges(text: int) -> tuple[Ints, Ints]:
    """Both ends of all edges of a text, (edges, 2) in grid units, y upwards."""
    drawn = outlines()
    begins: list[Ints] = []
    ends: list[Ints] = []
    for run in range(drawn.runs[text], drawn.runs[text + 1]):
        glyph, place = drawn.glyphs[run], drawn.places[run]
        edges = slice(drawn.shapes[glyph], drawn.shapes[glyph + 1])
        begins.append(drawn.begins[edges] + place)
        ends.append(drawn.ends[edges] + place)
    return np.concatenate(begins), np.concatenate(ends)


def _filled(begins: Ints, ends: Ints, size: Ints, samples: tuple[int, int]) -> NDArray[np.bool_]:
    """Which samples of a grid over a box lie inside polygons, by the nonzero winding rule.

    Args:
        begins: (edges, 2), in units, y downwards from the top of the box.
        ends: As `begins`.
        size: Width and height of the box in units.
        samples: Columns and rows.

    Returns:
        bool, shape (rows, columns).
    """
    columns, rows = samples
    down = ends[:, 1] > begins[:, 1]
    top = np.where(down[:, None], begins, ends)
    bottom = np.where(down[:, None], ends, begins)
    # row r is sampled at (2 r + 1) height / (2 rows); an edge covers the rows from its top to above its bottom
    first = _ceil(2 * rows * top[:, 1] - size[1], 2 * size[1])
    after = _ceil(2 * rows * bottom[:, 1] - size[1], 2 * size[1])
    counts = after - first
    edge = np.repeat(np.arange(len(top)), counts)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
    rise, run = (bottom - top)[edge, 1], (bottom - top)[edge, 0]
    # where the edge crosses the row, in units times 2 rows rise, and the first column to its right
    crossing = top[edge, 0] * 2 * rows * rise
    crossing += run * ((2 * row + 1) * size[1] - 2 * rows * top[edge, 1])
    column = _ceil(2 * columns * crossing - 2 * rows * rise * size[0], 4 * rows * rise * size[0])
    cell = row * (columns + 1) + np.clip(column, 0, columns)
    length = rows * (columns + 1)
    into = np.bincount(cell[down[edge]], minlength=length)
    out_of = np.bincount(cell[~down[edge]], minlength=length)
    turns = (into - out_of).astype(np.int8).reshape(rows, columns + 1)
    inside: NDArray[np.bool_] = np.cumsum(turns, 1, dtype=np.int8)[:, :-1] != 0
    return inside


def _ceil(part: Ints, whole: Ints | int) -> Ints:
    """Quotients rounded up, `whole` being positive."""
    quotient: Ints = -(-part // whole)
    return quotient
