import numpy as np
import pytest

from tests.factories import CASTS
from worldloop.atlas.atlas import load_atlas
from worldloop.atlas.signs import HEIGHT_PX, sign_image, sign_texts
from worldloop.errors import UnknownKeyError


def test_every_sign_of_the_atlas_has_a_mask_with_letters_up_to_every_edge():
    for sign in load_atlas().signs:
        mask = sign_image(sign.language, sign.text)
        assert mask.dtype == np.uint8
        assert mask.shape[0] == HEIGHT_PX
        assert mask.max() == 255
        assert mask[:, 0].any()
        assert mask[:, -1].any()
        assert mask[0].any()
        assert mask[-1].any()


def test_the_signs_of_the_test_scenes_are_drawn():
    signs = [sign for cast in CASTS.values() for sign in cast["signs"] if sign.text]
    assert all(sign_image(sign.language, sign.text).any() for sign in signs)


def test_texts_of_one_language_look_different():
    masks = {sign_image("ar", text).tobytes() for text in sign_texts()["ar"]}
    assert len(masks) == len(sign_texts()["ar"])


def test_arabic_letters_join():
    joined = sign_image("ar", "بنك")  # three letters, two of which join into one stroke
    columns_with_ink = joined.max(0) > 128
    strokes = int((np.diff(columns_with_ink.astype(int)) == 1).sum() + columns_with_ink[0])
    assert strokes == 1


def test_hebrew_runs_from_right_to_left():
    bank = sign_image(
        "he", "בנק"
    )  # begins with bet, whose foot is wide; ends with qof, which descends
    below = (bank[-6:] > 128).any(0)
    assert below[: bank.shape[1] // 3].any()
    assert not below[2 * bank.shape[1] // 3 :].any()


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
