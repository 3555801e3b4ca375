import numpy as np
import pytest

from tests.factories import CASTS
from worldloop.atlas.atlas import load_atlas
from worldloop.atlas.csv_tables import DATA, read_rows
from worldloop.atlas.signs import HEIGHT_PX, LEVEL, _filled, sign_image, sign_texts
from worldloop.errors import UnknownKeyError

SAMPLE = [(tag, text) for tag, texts in sign_texts().items() for text in texts[::12]]


def strokes(mask):
    """How often ink begins along a mask, seen from above."""
    ink = np.concatenate([[False], (mask > 128).any(0)])
    return int((~ink[:-1] & ink[1:]).sum())


def test_every_sign_of_the_atlas_has_outlines():
    drawn = sign_texts()
    assert all(sign.text in drawn[sign.language] for sign in load_atlas().signs)


def test_texts_of_earlier_releases_have_outlines_for_their_scenes():
    drawn, former = sign_texts(), read_rows(DATA / "inputs" / "former_signs.csv")
    assert len(former) > 200
    assert all(row["text"] in drawn[row["language"]] for row in former)


@pytest.mark.parametrize("height_px", [HEIGHT_PX, 23])
def test_a_mask_has_letters_up_to_every_edge_and_16_levels(height_px):
    for language, text in SAMPLE:
        mask = sign_image(language, text, height_px)
        assert mask.dtype == np.uint8
        assert mask.shape[0] == height_px
        assert not (mask % LEVEL).any()
        edges = (mask[:, 0], mask[:, -1], mask[0], mask[-1])
        assert all(edge.any() for edge in edges), (language, text)
        assert mask.max() == 255


def test_a_sign_keeps_its_shape_at_another_height():
    small, large = sign_image("ja", "病院"), sign_image("ja", "病院", 160)
    assert large.shape[1] / 160 == pytest.approx(small.shape[1] / 40, rel=0.03)
    blurred = large.reshape(40, 4, -1)[:, :, : small.shape[1] // 1 * 4].mean(1)
    assert abs(blurred.mean() - small.mean()) < 4


def test_the_signs_of_the_test_scenes_are_drawn():
    signs = [sign for cast in CASTS.values() for sign in cast["signs"] if sign.text]
    assert all(sign_image(sign.language, sign.text).any() for sign in signs)


def test_texts_of_one_language_look_different():
    masks = {sign_image("ar", text).tobytes() for text in sign_texts()["ar"]}
    assert len(masks) == len(sign_texts()["ar"])


def test_arabic_letters_join():
    assert strokes(sign_image("ar", "بنك")) == 1  # three letters, two of which join into one stroke


def test_words_under_a_devanagari_headline_hang_together():
    assert strokes(sign_image("hi", "अस्पताल")) == 1


def test_nastaliq_steps_down_along_the_word():
    mask = sign_image("ur", "ہسپتال") > 128
    rows = np.arange(len(mask))[:, None]
    middle = (mask * rows).sum(0) / np.maximum(mask.sum(0), 1)
    width = mask.shape[1]
    assert middle[-width // 4 :].mean() < middle[: width // 2].max()


def test_hebrew_runs_from_right_to_left():
    bank = sign_image(
        "he", "בנק"
    )  # begins with bet, whose foot is wide; ends with qof, which descends
    below = (bank[-6:] > 128).any(0)
    assert below[: bank.shape[1] // 3].any()
    assert not below[2 * bank.shape[1] // 3 :].any()


def test_chinese_and_japanese_draw_a_letter_of_theirs():
    one, other = sign_image("ja", "博物館"), sign_image("zh-Hant", "博物館")
    assert one.tobytes() != other.tobytes()  # Unicode shares the letters, the countries do not


def test_an_overlap_is_filled_and_a_hole_is_not():
    square = np.array([[0, 0], [8, 0], [8, 8], [0, 8]])
    inner = square // 2 + 2
    for hole in (inner, inner[::-1]):
        begins = np.concatenate([square, hole])
        ends = np.concatenate([np.roll(square, -1, 0), np.roll(hole, -1, 0)])
        inside = _filled(begins, ends, np.array([8, 8]), (8, 8))
        assert inside.sum() == (64 if hole is inner else 48)


def test_masks_cannot_be_changed_by_a_reader():
    with pytest.raises(ValueError, match="read-only"):
        sign_image("ja", "病院")[0, 0] = 1


@pytest.mark.parametrize(
    ("language", "text", "message"),
    [("xx", "病院", "No sign language"), ("ja", "びょういん", "No sign in 'ja'")],
)
def test_a_sign_that_was_not_drawn_is_refused(language, text, message):
    with pytest.raises(UnknownKeyError, match=message):
        sign_image(language, text)


def test_all_outlines_take_less_than_half_a_megabyte():
    assert (DATA / "outlines.npz.xz").stat().st_size < 500_000
