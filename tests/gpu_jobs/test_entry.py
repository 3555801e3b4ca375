import json
import logging
import subprocess
import sys
from dataclasses import asdict

import pytest

from gpu_jobs.common.entry import _JsonLines, read_spec
from gpu_jobs.render_clips.spec import RenderClipsSpec
from tests.factories import make_recipe
from worldloop.errors import MalformedRecordError


def line_of(message: str) -> dict[str, str]:
    record = logging.LogRecord("x", logging.INFO, "x.py", 1, message, None, None)
    return json.loads(_JsonLines({"run_id": "r1"}).format(record))


def test_a_structured_line_carries_its_run():
    assert line_of('{"event": "clip_done", "recipe_id": "ab"}') == {
        "level": "info",
        "run_id": "r1",
        "event": "clip_done",
        "recipe_id": "ab",
    }


@pytest.mark.parametrize("message", ["plain words", "3", '"quoted"'])
def test_plain_words_become_a_structured_line(message):
    assert line_of(message)["message"] == message


def test_a_spec_with_an_unknown_field_is_refused():
    with pytest.raises(MalformedRecordError, match="colour"):
        read_spec(RenderClipsSpec, {"colour": "red"})


def test_every_line_of_a_job_is_json_and_names_its_clip(tmp_path):
    recipe = make_recipe("museum")
    spec = RenderClipsSpec(
        (recipe.to_record(),), str(tmp_path / "staging"), str(tmp_path / "pack.tar")
    )
    (tmp_path / "spec.json").write_text(json.dumps(asdict(spec)))

    done = subprocess.run(
        [sys.executable, "-m", "gpu_jobs.render_clips.job", str(tmp_path / "spec.json")],
        capture_output=True,
        text=True,
        check=True,
    )

    lines = [json.loads(text) for text in done.stderr.splitlines() if text.startswith("{")]
    assert [line["recipe_id"] for line in lines if line["event"] == "clip_done"] == [
        recipe.recipe_id
    ]
    assert all(line["job"] == "RenderClipsSpec" for line in lines)
