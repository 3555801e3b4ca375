import io

import numpy as np
from PIL import Image

from worldloop.contact_sheets import as_markdown, contact_sheet


def poster(value: int) -> bytes:
    sink = io.BytesIO()
    noise = np.random.default_rng(value).integers(0, 255, (144, 256, 3), np.uint8)
    Image.fromarray(noise).save(sink, "PNG")
    return sink.getvalue()


def test_a_sheet_has_a_tile_for_each_poster():
    sheet = Image.open(io.BytesIO(contact_sheet([poster(i) for i in range(6)])))

    assert sheet.size == (960, 270)  # as wide as the dialog of the UI shows


def test_noisy_posters_still_make_a_small_sheet():
    assert len(contact_sheet([poster(i) for i in range(3)])) <= 28_000


def test_a_square_poster_is_not_stretched():
    sink = io.BytesIO()
    Image.new("RGB", (64, 64), (255, 0, 0)).save(sink, "PNG")
    sheet = np.asarray(Image.open(io.BytesIO(contact_sheet([sink.getvalue()]))).convert("RGB"))
    red = sheet[67, :, 0] > 200

    assert sheet.shape == (135, 240, 3)
    assert abs(int(red.sum()) - 135) <= 4  # a square in the middle, bars at its sides
    assert red[120]
    assert not red[:40].any()


def test_markdown_carries_the_picture_itself():
    assert as_markdown(b"\xff\xd8", alt="x") == "![x](data:image/jpeg;base64,/9g=)"
