"""Boards of signs: every text stands on its board, large enough, in its own reading order."""

import numpy as np
import pytest

from worldloop.atlas.records import Sign
from worldloop.atlas.signs import sign_image, sign_texts
from worldloop.worlds import boards
from worldloop.worlds.boards import SIGN_HEIGHT_PX, SIGN_WIDTH_PX, board_image


def letters(language: str, text: str) -> np.ndarray:
    """How much of each pixel inside the rim is letter, 0 to 1."""
    image = board_image(Sign("any", text, language), "#000000", "#ffffff")
    return image[5:-5, 5:-5, 0] / 255


def num_lines(ink: np.ndarray) -> int:
    """Bands of rows that hold letters."""
    rows = ink.max(1) > 0.2
    return int((rows[1:] & ~rows[:-1]).sum() + rows[0])


def widest(language: str) -> str:
    """The widest text of a language."""
    return max(sign_texts()[language], key=lambda text: sign_image(language, text, 10).shape[1])


@pytest.mark.parametrize("language", ["en", "ja", "km", "lo", "my", "ur", "ar", "ka", "kk", "th"])
def test_every_text_stays_inside_the_rim(language: str) -> None:
    for text in sorted(sign_texts()[language])[:40]:
        ink = letters(language, text)
        assert ink.shape == (SIGN_HEIGHT_PX - 10, SIGN_WIDTH_PX - 10)
        assert ink.max() > 0.6
        assert max(ink[:4].max(), ink[-4:].max(), ink[:, :6].max(), ink[:, -6:].max()) < 0.05


def test_a_wide_text_of_several_words_stands_in_two_lines() -> None:
    for language in ("ru", "ka", "pt"):
        text = widest(language)
        assert num_lines(letters(language, text)) == 2
        assert np.ptp(np.flatnonzero(letters(language, text).max(1) > 0.2)) > 24


def test_one_word_and_a_short_text_stand_in_one_line() -> None:
    assert num_lines(letters("en", "Hotel")) == 1
    assert num_lines(letters("fr", "Musée")) <= 2  # the accent


def test_lines_are_broken_between_words() -> None:
    text = "Suitsetamine keelatud"
    (first, second) = boards._broken(sign_image("et", text, 44), text)
    assert first.shape[1] > second.shape[1]  # the first word is the longer one


def test_a_script_that_runs_to_the_left_begins_with_its_right_half() -> None:
    text = widest("he")
    mask = sign_image("he", text, 44)
    first, second = boards._broken(mask, text)
    assert np.array_equal(first, mask[:, -first.shape[1] :])
    assert np.array_equal(second, mask[:, : second.shape[1]])
