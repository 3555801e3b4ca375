import io
import json
import re
import shutil

import numpy as np
import polars as pl
import pytest
from PIL import Image

from tests.worldloop.curation.clips import canvas, encode, pan
from worldloop.gallery import write_gallery

CHROMIUM = shutil.which("chromium")
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def make_rows(num_clips: int = 6, *, caption: str = "People cross a wet street.") -> pl.DataFrame:
    count = range(num_clips)
    return pl.DataFrame(
        {
            "recipe_id": [f"{i:032x}" for i in count],
            "wave": ["w0001"] * num_clips,
            "index": list(count),
            "city": [("tokyo", "rio_de_janeiro", "oslo")[i % 3] for i in count],
            "institution": [("street", "amusement_park")[i % 2] for i in count],
            "weather": ["rain", *["clear"] * (num_clips - 1)],
            "daypart": [("night", "morning")[i % 2] for i in count],
            "season": ["spring"] * num_clips,
            "generator": ["procedural"] * num_clips,
            "status": ["accepted"] * num_clips,
            "caption": [f"{caption} Number {i}." for i in count],
            "duration_s": [0.5] * num_clips,
            "poster_offset": [None, *[0] * (num_clips - 1)],
        }
    )


def read_media(row, kind):
    picture = canvas(row["index"], hue=tuple(np.roll([1, 0.6, 0.3], row["index"])))
    if kind == "rgb":
        return encode(pan(picture, num_frames=12))
    sink = io.BytesIO()
    Image.fromarray(picture[:144, :256]).save(sink, "PNG")
    return sink.getvalue()


def clips_of(page):
    found = re.search(r'id="clips">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found
    return json.loads(found[1])


def test_every_clip_has_its_files_beside_the_page(tmp_path):
    clips = clips_of(write_gallery(make_rows(), tmp_path, read_media))
    assert [clip["index"] for clip in clips] == list(range(6))
    for clip in clips:
        assert (tmp_path / clip["video"]).read_bytes()[4:8] == b"ftyp"
        assert clip["poster"] == "" or (tmp_path / clip["poster"]).read_bytes()[:4] == b"\x89PNG"
    assert [clip["poster"] == "" for clip in clips] == [True, *[False] * 5]


def test_the_same_rows_give_the_same_files_and_old_clips_go(tmp_path):
    write_gallery(make_rows(8), tmp_path / "a", read_media)
    write_gallery(make_rows(4).reverse(), tmp_path / "a", read_media)
    write_gallery(make_rows(4), tmp_path / "b", read_media)
    files = [
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (tmp_path / "a", tmp_path / "b")
    ]
    assert files[0] == files[1]


def test_the_page_asks_nothing_of_the_network(tmp_path):
    page = write_gallery(make_rows(), tmp_path, read_media).read_text()
    assert not re.search(r"(https?:)?//[a-z]|@import|\bimport\s", page)


def test_a_caption_cannot_become_markup(tmp_path):
    wicked = "</script><script>alert(1)</script>"
    page = write_gallery(make_rows(1, caption=wicked), tmp_path, read_media)
    assert wicked not in page.read_text()
    assert clips_of(page)[0]["caption"].startswith(wicked)


@pytest.mark.skipif(CHROMIUM is None, reason="no `chromium` on PATH; install it to test the page")
def test_a_browser_filters_and_plays(tmp_path):
    from playwright.sync_api import sync_playwright

    page_path = write_gallery(make_rows(), tmp_path / "gallery", read_media)
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(tmp_path / "profile"), executable_path=CHROMIUM, args=list(QUIET)
        )
        page = context.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(page_path.as_uri())
        cards = page.locator("ul.grid > li")
        assert cards.count() == 6
        assert not page.is_visible("#more")
        page.locator("label", has_text="Oslo").click()
        assert cards.count() == 2
        page.locator("label", has_text="Tokyo").click()
        assert cards.count() == 4
        page.fill("#words", "number 3")
        assert page.text_content("#count") == "1 of 6 clips"
        page.click("#reset")
        assert cards.count() == 6
        cards.nth(2).locator("button").click()
        video = page.locator("dialog video")
        page.wait_for_function("document.querySelector('dialog video').readyState >= 2")
        assert video.evaluate("node => [node.videoWidth, node.videoHeight]") == [256, 144]
        page.keyboard.press("Escape")
        assert page.locator("dialog[open]").count() == 0
        page.fill("#words", "no such thing")
        assert page.is_visible("#empty")
        assert errors == []
        context.close()
