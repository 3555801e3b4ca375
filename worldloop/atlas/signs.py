"""Sign bitmaps: every word of the atlas drawn once, so that no clip depends on a machine's fonts.

`bitmaps/<language>.png` holds the masks of one language side by side, all `HEIGHT_PX` high and 16
levels deep; `bitmaps.csv` says where each text begins. `bake_signs.py` draws them.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worldloop.atlas.csv_tables import DATA, read_rows
from worldloop.errors import UnknownKeyError

HEIGHT_PX = 40
LEVEL = 17  # 4-bit masks: 255 = 15 * 17


def sign_image(language: str, text: str) -> NDArray[np.uint8]:
    """The mask of a text as it stands on a sign, 0 (board) to 255 (letter).

    It is trimmed on all sides, shaped for its script and in reading order as one sees it.

    Args:
        language: BCP 47 tag, e.g. `ja`.
        text: What is written, exactly as `Sign.text` has it.

    Returns:
        uint8, shape (40, width). Read-only.

    Raises:
        UnknownKeyError: If no bitmap of that text in that language was baked.

    Example:
        >>> sign_image("ja", "病院").shape[0]
        40
    """
    places = _places()
    if language not in places:
        raise UnknownKeyError("sign language", language, places)
    if text not in places[language]:
        raise UnknownKeyError(f"sign in {language!r}", text, places[language])
    left, width = places[language][text]
    return _strip(language)[:, left : left + width]


def sign_texts() -> dict[str, tuple[str, ...]]:
    """Every text that has a bitmap, by language."""
    return {language: tuple(texts) for language, texts in _places().items()}


@cache
def _places() -> dict[str, dict[str, tuple[int, int]]]:
    """Where each text lies in the strip of its language: first column and width."""
    places: dict[str, dict[str, tuple[int, int]]] = {}
    for row in read_rows(DATA / "bitmaps.csv"):
        spans = places.setdefault(row["language"], {})
        spans[row["text"]] = int(row["left_px"]), int(row["width_px"])
    return places


@cache
def _strip(language: str) -> NDArray[np.uint8]:
    """All masks of a language, side by side."""
    with Image.open(DATA / "bitmaps" / f"{language}.png") as image:
        levels = np.asarray(image)
    strip: NDArray[np.uint8] = levels.astype(np.uint8) * np.uint8(LEVEL)
    strip.setflags(write=False)
    return strip
