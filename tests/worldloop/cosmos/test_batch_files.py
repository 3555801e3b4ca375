import json

import pytest

from worldloop.cosmos.batch_files import BatchLine, read_batch
from worldloop.errors import MalformedRecordError


def written(tmp_path, *lines):
    path = tmp_path / "batch.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def read(path, *, needs_prompt=False, needs_visual=False):
    return read_batch(path, needs_prompt=needs_prompt, needs_visual=needs_visual)


def test_a_line_is_a_clip(tmp_path):
    path = written(
        tmp_path, '{"prompt": "A tram."}', "", '{"prompt": "東京", "visual_input": "a.mp4"}'
    )

    assert read(path) == (BatchLine(1, "A tram."), BatchLine(3, "東京", "a.mp4"))


def test_other_fields_are_left_alone(tmp_path):
    path = written(tmp_path, json.dumps({"prompt": "A tram.", "id": 7}))

    assert read(path)[0].prompt == "A tram."


@pytest.mark.parametrize(
    ("line", "needs", "words"),
    [
        ("{", {}, "line 2 of batch.jsonl: found '{', expected one JSON object"),
        ("[1]", {}, r"line 2 .*found \[1\], expected a JSON object"),
        ('{"prompt": 3}', {}, "line 2 .*found 3, expected a text in the field `prompt`"),
        ('{"visual_input": "a.mp4"}', {"needs_prompt": True}, "found None.*leave the prompt upsam"),
        (
            '{"prompt": "A tram."}',
            {"needs_visual": True},
            "field `visual_input`.*Add it to the line",
        ),
        ('{"promt": "A tram."}', {}, r"found \['promt'\], expected a `prompt`"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, needs, words):
    good = '{"prompt": "A tram.", "visual_input": "a.mp4"}'

    with pytest.raises(MalformedRecordError, match=words):
        read(written(tmp_path, good, line), **needs)


def test_an_empty_file_is_refused(tmp_path):
    with pytest.raises(MalformedRecordError, match="one JSON object a line"):
        read(written(tmp_path, ""))


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(MalformedRecordError, match="--batch_input_path"):
        read(tmp_path / "none.jsonl")
