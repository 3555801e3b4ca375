"""Sign boards as images: the text of a sign on a coloured board with a thin rim, all of one size."""

import unicodedata

import numpy as np
from numpy.typing import NDArray

from worldloop.atlas.records import Sign
from worldloop.atlas.signs import sign_image
from worldloop.worlds.geometry import Float
from worldloop.worlds.world import UInt8

SIGN_HEIGHT_PX, SIGN_WIDTH_PX = 64, 256
SIGN_ASPECT = SIGN_WIDTH_PX / SIGN_HEIGHT_PX
_INNER_HEIGHT_PX, _INNER_WIDTH_PX = SIGN_HEIGHT_PX - 20, SIGN_WIDTH_PX - 24
_LEADING_PX = 4  # between two lines
_WORD_GAP = 0.12  # of the height of a text; in some scripts words leave no gap
_WORTHWHILE = 1.15  # how much larger letters must become by a second line


def board_image(sign: Sign, board_code: str, letter_code: str) -> UInt8:
    """A sign as its board looks.

    A text that is very wide stands in two lines if it has words.

    Args:
        sign: What is written, and in which language.
        board_code: Hex colour of the board.
        letter_code: Hex colour of letters and rim.

    Returns:
        sRGB, uint8 (SIGN_HEIGHT_PX, SIGN_WIDTH_PX, 3).

    Raises:
        UnknownKeyError: If the text has no outlines in that language.
    """
    lines = _broken(sign_image(sign.language, sign.text, _INNER_HEIGHT_PX), sign.text)
    room_px = (_INNER_HEIGHT_PX - _LEADING_PX * (len(lines) - 1)) // len(lines)
    scale = _scale(lines, room_px)
    canvas = np.zeros((SIGN_HEIGHT_PX, SIGN_WIDTH_PX, 1))
    fitted = [_scaled(line, scale) for line in lines]
    top = (SIGN_HEIGHT_PX - sum(map(len, fitted)) - _LEADING_PX * (len(lines) - 1)) // 2
    for alpha in fitted:
        left = (SIGN_WIDTH_PX - alpha.shape[1]) // 2
        canvas[top : top + len(alpha), left : left + alpha.shape[1], 0] = alpha
        top += len(alpha) + _LEADING_PX
    canvas[2:4, 2:-2] = canvas[-4:-2, 2:-2] = canvas[2:-2, 2:4] = canvas[2:-2, -4:-2] = 0.7
    board, letters = (
        np.array([int(code[i : i + 2], 16) for i in (1, 3, 5)], np.float64)
        for code in (board_code, letter_code)
    )
    return np.rint(board + (letters - board) * canvas).astype(np.uint8)


def _broken(mask: UInt8, text: str) -> list[UInt8]:
    """The mask in one line, or in two where its letters become larger: broken between words."""
    gaps = _word_gaps(mask, len(text.split()) - 1)
    if not len(gaps):
        return [mask]
    begin, end = gaps[np.abs(gaps.mean(1) - mask.shape[1] / 2).argmin()]
    halves = [mask[:, :begin], mask[:, end:]]
    room_px = (_INNER_HEIGHT_PX - _LEADING_PX) // 2
    if _scale(halves, room_px) < _WORTHWHILE * _scale([mask], _INNER_HEIGHT_PX):
        return [mask]
    return halves[::-1] if _is_right_to_left(text) else halves


def _word_gaps(mask: UInt8, num_gaps: int) -> NDArray[np.int64]:
    """Empty columns between words, the widest there are, (gaps, 2): first one, and the first after them."""
    empty = np.concatenate([[False], ~mask.any(0), [False]])
    edges = np.flatnonzero(empty[1:] != empty[:-1]).reshape(-1, 2)
    widths = np.diff(edges)[:, 0]
    widest = np.argsort(-widths, kind="stable")[:num_gaps]
    wide: NDArray[np.int64] = edges[widest[widths[widest] >= _WORD_GAP * mask.shape[0]]]
    return wide


def _is_right_to_left(text: str) -> bool:
    """Whether the first letter belongs to a script that runs to the left."""
    classes = (unicodedata.bidirectional(letter) for letter in text)
    return next((one for one in classes if one in ("L", "R", "AL")), "L") != "L"


def _scale(lines: list[UInt8], room_px: int) -> float:
    """The factor by which lines fit, all by the same."""
    widest, tallest = max(line.shape[1] for line in lines), max(len(line) for line in lines)
    scale: float = min(room_px / tallest, _INNER_WIDTH_PX / widest)
    return scale


def _scaled(mask: UInt8, scale: float) -> Float:
    """A mask made smaller, area-averaged, values in [0, 1]."""
    h, w = (max(1, int(scale * n)) for n in mask.shape)
    rows, columns = _area_weights(mask.shape[0], h), _area_weights(mask.shape[1], w)
    result: Float = np.clip(rows @ (mask / 255.0) @ columns.T, 0, 1).astype(np.float32)
    return result


def _area_weights(num_in: int, num_out: int) -> Float:
    """Rows that average the inputs which each output pixel covers."""
    width = max(1.0, num_in / num_out)
    centre = (np.arange(num_out) + 0.5) * num_in / num_out
    reach = np.abs(np.arange(num_in)[None] + 0.5 - centre[:, None])
    weights = np.clip((width + 1) / 2 - reach, 0, 1)
    result: Float = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return result
