"""The render job through its main path, on real grammars, with clips of a few small frames."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from gpu_jobs.common.entry import read_spec
from gpu_jobs.render_clips import job
from gpu_jobs.render_clips.job import render_clips
from gpu_jobs.render_clips.spec import RenderClipsReport, RenderClipsSpec
from tests.factories import make_recipe
from worldloop.annotations import read_clip
from worldloop.errors import JobFailedError, MalformedRecordError, StoreError
from worldloop.packs import read_pack_index
from worldloop.recipes import Recipe

RECIPES = [make_recipe("street"), make_recipe("museum")]
WAIT_S = 60.0
LONG = make_recipe("museum", num_frames=900, width_px=512, height_px=288, num_samples=5)

Process: TypeAlias = "subprocess.Popen[str]"


def make_spec(folder: Path, recipes: list[Recipe], **changes: Any) -> RenderClipsSpec:
    fields: dict[str, Any] = {
        "recipes": tuple(recipe.to_record() for recipe in recipes),
        "staging_dir": str(folder / "staging"),
        "pack_path": str(folder / "pack.tar"),
    }
    return RenderClipsSpec(**{**fields, **changes})


@contextmanager
def running(folder: Path, spec: RenderClipsSpec, **environment: str) -> Iterator[Process]:
    """The job in a process of its own, which does not outlive the test."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "spec.json"
    path.write_text(json.dumps(asdict(spec)))
    command = [sys.executable, "-m", "gpu_jobs.render_clips.job", str(path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env={**os.environ, **environment}, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_line(process: Process, word: str) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        if word in line:
            return line
    raise AssertionError(f"the job ended without saying {word!r}")


def wait_for_path(folder: Path, pattern: str) -> None:
    end = time.monotonic() + WAIT_S
    while not list(folder.glob(pattern)):
        assert time.monotonic() < end, f"no {pattern} appeared in {folder}"
        time.sleep(0.02)


def hashes(report: RenderClipsReport) -> dict[str, str]:
    return {m["name"]: m["sha256"] for row in report.clips for m in row["members"]}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RenderClipsReport]:
    folder = tmp_path_factory.mktemp("rendered")
    return folder, render_clips(make_spec(folder, RECIPES))


def test_recipes_become_clips_in_one_pack(rendered: tuple[Path, RenderClipsReport]) -> None:
    folder, report = rendered
    assert [row["recipe_id"] for row in report.clips] == [r.recipe_id for r in RECIPES]
    assert not report.failures
    clip = read_clip(folder / "pack.tar", RECIPES[0].recipe_id)
    assert clip.rgb.shape == (5, 36, 64, 3)
    assert clip.depth_m.shape == clip.instance.shape == clip.semantic.shape == (5, 36, 64)
    assert Recipe.from_record(clip.recipe) == RECIPES[0]


def test_a_row_says_where_each_file_stands_in_the_pack(
    rendered: tuple[Path, RenderClipsReport],
) -> None:
    folder, report = rendered
    index = [asdict(member) for member in read_pack_index(folder / "pack.tar")]
    assert [m for row in report.clips for m in row["members"]] == index
    assert all(
        row["size_bytes"] == sum(m["size_bytes"] for m in row["members"]) for row in report.clips
    )


def test_every_instance_in_view_has_a_phrase_and_a_box(
    rendered: tuple[Path, RenderClipsReport],
) -> None:
    folder, _ = rendered
    clip = read_clip(folder / "pack.tar", RECIPES[0].recipe_id)
    seen = set(clip.instance.ravel().tolist())
    assert seen <= set(clip.instances["instance_id"])
    assert set(clip.boxes["instance_id"]) == seen - {0}
    assert clip.boxes["num_pixels"].sum() == int((clip.instance > 0).sum())


def test_another_process_with_another_hash_seed_writes_the_same_bytes(
    rendered: tuple[Path, RenderClipsReport], tmp_path: Path
) -> None:
    with running(tmp_path, make_spec(tmp_path, RECIPES), PYTHONHASHSEED="4711") as process:
        _, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, errors
    assert (tmp_path / "pack.tar").read_bytes() == (rendered[0] / "pack.tar").read_bytes()


def test_a_killed_job_resumes_to_the_same_pack(
    rendered: tuple[Path, RenderClipsReport], tmp_path: Path
) -> None:
    spec = make_spec(tmp_path, RECIPES)
    with running(tmp_path, spec) as process:
        wait_for_line(process, "clip_done")
        process.kill()
    report = render_clips(spec)
    assert report.receipts[0]["resumed"]
    assert (tmp_path / "pack.tar").read_bytes() == (rendered[0] / "pack.tar").read_bytes()
    assert not list((tmp_path / "staging").glob("*.partial"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_job_leaves_no_half_clip(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path, make_spec(tmp_path, [LONG])) as process:
        wait_for_path(tmp_path / "staging", "*.partial")
        process.send_signal(number)
        _, errors = process.communicate(timeout=10)
    assert process.returncode == 130, errors
    assert [p.name for p in (tmp_path / "staging").iterdir()] == ["lock"]
    assert not (tmp_path / "pack.tar").exists()


def test_a_staged_clip_with_changed_bytes_is_rendered_again(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, RECIPES[:1])
    first = render_clips(spec)
    poster = tmp_path / "staging" / RECIPES[0].recipe_id / "poster.jpg"
    poster.write_bytes(b"rot")
    again = render_clips(spec)
    assert not again.receipts[0]["resumed"]
    assert hashes(again) == hashes(first)


def test_a_receipt_names_the_device_that_drew_the_clip(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, RECIPES[:1])
    first, again = render_clips(spec), render_clips(spec)
    assert first.versions["device"] == "cpu"
    drawn = [(r["device"], r["gpu_s"], r["resumed"]) for r in (*first.receipts, *again.receipts)]
    assert drawn == [("cpu", 0.0, False), ("cpu", 0.0, True)]


def test_a_staged_clip_of_another_device_is_drawn_anew(tmp_path: Path) -> None:
    """So that a pack is of one device, and can be made again there byte for byte."""
    spec = make_spec(tmp_path, RECIPES)
    first = render_clips(spec)
    receipt = tmp_path / "staging" / RECIPES[0].recipe_id / job.RECEIPT_NAME
    receipt.write_text(json.dumps({"device": "NVIDIA H200 sm_90", "gpu_s": 0.4}))
    again = render_clips(spec)
    assert [row["resumed"] for row in again.receipts] == [False, True]
    assert [row["device"] for row in again.receipts] == ["cpu", "cpu"]
    assert hashes(again) == hashes(first)


@pytest.mark.parametrize("left", ["", "{"])
def test_a_staged_clip_whose_receipt_was_cut_off_is_drawn_anew(tmp_path: Path, left: str) -> None:
    spec = make_spec(tmp_path, RECIPES[:1])
    render_clips(spec)
    (tmp_path / "staging" / RECIPES[0].recipe_id / job.RECEIPT_NAME).write_text(left)
    assert not render_clips(spec).receipts[0]["resumed"]


@pytest.mark.parametrize("device", ["cuda:99", "gpu", ""])
def test_a_device_that_is_not_there_stops_the_job_before_any_clip(
    tmp_path: Path, device: str
) -> None:
    lines: list[dict[str, Any]] = []
    with pytest.raises(JobFailedError) as raised:
        render_clips(make_spec(tmp_path, RECIPES, device=device), on_clip=lines.append)
    message = str(raised.value)
    assert f"asked for the device {device!r}; expected one that Warp finds" in message
    assert "'cpu'" in message
    assert "Set WORLDLOOP_RENDER_DEVICE" in message
    assert not lines
    assert not (tmp_path / "staging").exists()


def test_a_device_that_is_not_there_is_one_line_by_hand(tmp_path: Path) -> None:
    with running(tmp_path, make_spec(tmp_path, RECIPES, device="gpu")) as process:
        _, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode == 1
    assert errors.splitlines()[-1].startswith("JobFailedError: The renderer is asked for")


def test_a_second_job_waits_and_finds_everything_done(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, RECIPES[:1])
    render_clips(spec)
    with (tmp_path / "staging" / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with running(tmp_path, spec) as process:
            wait_for_line(process, "waiting_for_lock")
            fcntl.flock(lock, fcntl.LOCK_UN)
            output, _ = process.communicate(timeout=WAIT_S)
    assert json.loads(output)["receipts"][0]["resumed"]


def test_a_clip_that_fails_is_a_row_and_the_others_go_on(tmp_path: Path) -> None:
    nowhere = Recipe(replace(RECIPES[0].scene, institution="casino"), RECIPES[0].shape)
    lines: list[dict[str, Any]] = []
    spec = make_spec(tmp_path, [nowhere, RECIPES[1]], max_failed_share=0.5)
    report = render_clips(spec, on_clip=lines.append)
    assert [row["recipe_id"] for row in report.clips] == [RECIPES[1].recipe_id]
    (failure,) = report.failures
    assert (failure["recipe_id"], failure["stage"]) == (nowhere.recipe_id, "build")
    assert "casino" in failure["reason"]
    assert [line["event"] for line in lines] == ["clip_failed", "clip_done"]


def test_too_many_failures_end_the_job_and_keep_what_was_finished(tmp_path: Path) -> None:
    nowhere = Recipe(replace(RECIPES[0].scene, institution="casino"), RECIPES[0].shape)
    with pytest.raises(JobFailedError, match="1 of 2 clips failed"):
        render_clips(make_spec(tmp_path, [RECIPES[1], nowhere]))
    assert (tmp_path / "staging" / RECIPES[1].recipe_id / "rgb.mp4").exists()
    assert not (tmp_path / "pack.tar").exists()


def test_a_full_disk_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(job, "write_pack", no_room)
    with pytest.raises(StoreError, match="No room left"):
        render_clips(make_spec(tmp_path, RECIPES[1:]))


def test_a_malformed_recipe_stops_the_job_before_it_renders(tmp_path: Path) -> None:
    spec = replace(make_spec(tmp_path, []), recipes=({"generator": "procedural"},))
    with pytest.raises(MalformedRecordError, match="recipe"):
        render_clips(spec)
    assert not (tmp_path / "staging").exists()


def test_a_spec_survives_json() -> None:
    spec = make_spec(Path("x"), RECIPES)
    read = read_spec(RenderClipsSpec, json.loads(json.dumps(asdict(spec))))
    assert [Recipe.from_record(record) for record in read.recipes] == RECIPES
    assert replace(read, recipes=spec.recipes) == spec


def test_a_spec_with_an_unknown_field_says_so() -> None:
    with pytest.raises(MalformedRecordError, match="colour"):
        read_spec(RenderClipsSpec, {**asdict(make_spec(Path("x"), [])), "colour": 1})
