"""The generation job: nothing is lost, nothing is half there, and every outcome is counted."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from gpu_jobs.cosmos_generate import batches
from gpu_jobs.cosmos_generate.job import cosmos_generate
from gpu_jobs.cosmos_generate.protocol import Decoded
from tests.gpu_jobs.cosmos_generate.job_specs import (
    VIDEO2WORLD,
    asked_clips,
    small_spec,
)
from worldloop.errors import JobFailedError, MalformedRecordError
from worldloop.packs import read_pack_index


def hashes(report) -> dict[str, str]:
    return {clip["recipe_id"]: clip["content_sha256"] for clip in report.clips}


def frames_of(video: Path) -> list[np.ndarray]:
    with av.open(str(video)) as file:
        return [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]


def test_prompts_become_clips_with_what_decided_them(tmp_path):
    told = []
    report = cosmos_generate(small_spec(tmp_path), on_clip=told.append)

    members = {m.name for m in read_pack_index(tmp_path / "pack.tar")}
    assert members >= {"clip0.rgb.mp4", "clip1.rgb.mp4", "clip0.poster.jpg", "clip0.recipe.json"}
    assert [line["event"] for line in told] == ["clip_done", "clip_done"]
    assert all(r["ms_per_step"] > 0 and r["guardrail"] == "unguarded" for r in report.receipts)
    made = {row["recipe_id"]: row for row in report.generations}
    assert made["clip1"]["prompt"] == "A quiet street, number 1."
    assert made["clip1"]["seed"] == 1
    assert made["clip1"]["profile"]["name"] == "exact"


def test_the_same_spec_gives_the_same_bytes_in_another_folder(tmp_path):
    first = cosmos_generate(small_spec(tmp_path / "a"))
    second = cosmos_generate(small_spec(tmp_path / "b"))
    assert hashes(first) == hashes(second)
    assert len(set(hashes(first).values())) == 2


def test_a_saved_clip_lies_beside_its_prompt(tmp_path):
    cosmos_generate(small_spec(tmp_path, count=1, pack_path="", save_dir=str(tmp_path / "out")))
    assert len(frames_of(tmp_path / "out" / "clip0.mp4")) == 9
    assert (tmp_path / "out" / "clip0.txt").read_text() == "A quiet street, number 0.\n"


def test_finished_clips_are_not_made_again(tmp_path):
    first = cosmos_generate(small_spec(tmp_path, count=1))
    both = cosmos_generate(small_spec(tmp_path, count=2))
    assert [r["resumed"] for r in both.receipts] == [True, False]
    assert hashes(both)["clip0"] == hashes(first)["clip0"]


def test_a_killed_job_goes_on_after_its_last_finished_clip(tmp_path):
    spec = small_spec(tmp_path, count=4, num_steps=12)
    (tmp_path / "spec.json").write_text(json.dumps(asdict(spec)))
    job = subprocess.Popen(
        [sys.executable, "-m", "gpu_jobs.cosmos_generate.job", str(tmp_path / "spec.json")],
        stderr=subprocess.DEVNULL,
    )
    finished = tmp_path / "staging" / "clip1" / ".sums.json"
    deadline = time.monotonic() + 120
    while not finished.exists() and time.monotonic() < deadline and job.poll() is None:
        time.sleep(0.005)
    os.kill(job.pid, signal.SIGKILL)
    job.wait()

    report = cosmos_generate(spec)
    undisturbed = cosmos_generate(small_spec(tmp_path / "calm", count=4, num_steps=12))
    assert 2 <= sum(r["resumed"] for r in report.receipts) < 4
    assert hashes(report) == hashes(undisturbed)
    assert not list((tmp_path / "staging").glob("*.partial"))


def test_a_clip_without_its_receipt_is_made_again(tmp_path):
    spec = small_spec(tmp_path)
    first = cosmos_generate(spec)
    (tmp_path / "staging" / "clip0" / ".receipt.json").unlink()

    again = cosmos_generate(spec)

    assert [r["resumed"] for r in again.receipts] == [False, True]
    assert [r["guardrail"] for r in again.receipts] == [r["guardrail"] for r in first.receipts]
    assert hashes(again) == hashes(first)


def test_a_prompt_that_a_guard_blocks_is_a_counted_result(tmp_path):
    bad = {**asked_clips(1)[0], "clip_id": "bad", "prompt": "A man is murdered with a knife."}
    spec = small_spec(tmp_path, guards={"text": ["starter_blocklist"], "video": [], "dir": ""})
    spec = replace(spec, requests=(*spec.requests, bad))
    report, again = cosmos_generate(spec), cosmos_generate(spec)

    assert [row["recipe_id"] for row in report.blocked] == ["bad"]
    assert report.blocked[0]["guard"] == "starter_blocklist"
    assert len(report.clips) == 2
    assert not report.failures
    assert report.receipts[0]["guardrail"] == "text:starter_blocklist"
    assert again.blocked == report.blocked


def test_a_clip_with_a_broken_picture_fails_alone(tmp_path):
    rng = np.random.default_rng(0)
    good, broken = tmp_path / "good.png", tmp_path / "broken.png"
    Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8)).save(good)
    broken.write_bytes(good.read_bytes()[:200])
    requests = tuple(
        {**clip, "conditioning": {"path": str(path), "num_frames": 1}}
        for clip, path in zip(asked_clips(2), (good, broken), strict=True)
    )
    spec = small_spec(tmp_path, model=VIDEO2WORLD, requests=requests, max_failed_share=0.5)
    report = cosmos_generate(spec)
    assert [clip["recipe_id"] for clip in report.clips] == ["clip0"]
    assert report.failures[0]["recipe_id"] == "clip1"
    assert report.failures[0]["stage"] == "media"
    assert "broken.png" in report.failures[0]["reason"]


def test_too_many_failures_end_the_job_and_keep_what_is_finished(tmp_path):
    missing = {"conditioning": {"path": str(tmp_path / "none.png"), "num_frames": 1}}
    spec = small_spec(tmp_path, model=VIDEO2WORLD, requests=asked_clips(2, **missing))
    with pytest.raises(JobFailedError, match=r"2 of 2 clips failed.*none\.png"):
        cosmos_generate(spec)
    assert not (tmp_path / "pack.tar").exists()


def test_frames_that_are_not_numbers_fail_their_clip(tmp_path):
    spec = small_spec(tmp_path, max_failed_share=1.0, guidance=1e38)
    report = cosmos_generate(spec)
    assert not report.clips
    assert {row["stage"] for row in report.failures} == {"denoise"}


def test_a_request_that_the_model_cannot_make_stops_the_job_before_it_starts(tmp_path):
    spec = small_spec(tmp_path, sampler="unipc")
    with pytest.raises(MalformedRecordError, match="unipc"):
        cosmos_generate(spec)
    assert not (tmp_path / "checkpoints").exists()


def test_running_out_of_memory_takes_the_next_offload_plan_and_says_so(tmp_path, monkeypatch):
    import torch

    loop, tries = batches.Studio._loop, []

    def short_of_memory(studio, *args):
        tries.append(studio.residency.plan)
        if len(tries) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return loop(studio, *args)

    monkeypatch.setattr(batches.Studio, "_loop", short_of_memory)
    report = cosmos_generate(small_spec(tmp_path, count=1))
    assert len(report.clips) == 1
    assert tries[1] != tries[0]
    assert "out of memory" in report.recoveries[0]


def test_a_lost_gpu_is_one_clear_error_that_keeps_finished_clips(tmp_path, monkeypatch):
    loop, calls = batches.Studio._loop, []

    def lost_at_the_second(studio, *args):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("CUDA error: unspecified launch failure")
        return loop(studio, *args)

    monkeypatch.setattr(batches.Studio, "_loop", lost_at_the_second)
    with pytest.raises(JobFailedError, match="Finished clips are kept"):
        cosmos_generate(small_spec(tmp_path))
    monkeypatch.undo()
    assert [r["resumed"] for r in cosmos_generate(small_spec(tmp_path)).receipts] == [True, False]


def test_a_batch_of_two_stays_near_two_single_clips(tmp_path):
    single = cosmos_generate(small_spec(tmp_path / "one"))
    both = cosmos_generate(small_spec(tmp_path / "two", batch_size=2))
    assert set(hashes(both)) == set(hashes(single))
    one, two = (
        np.stack(frames_of(tmp_path / folder / "staging" / "clip1" / "rgb.mp4")).astype(int)
        for folder in ("one", "two")
    )
    assert np.abs(one - two).mean() < 1.0


def test_a_long_video_is_as_long_as_it_was_asked_to_be(tmp_path):
    picture = tmp_path / "first.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (48, 64, 3), np.uint8)).save(picture)
    requests = asked_clips(1, conditioning={"path": str(picture), "num_frames": 1})
    spec = small_spec(
        tmp_path, model=VIDEO2WORLD, requests=requests, extend_to_frames=24, overlap_frames=1
    )
    report = cosmos_generate(spec)
    assert report.clips[0]["num_frames"] == 24
    assert len(frames_of(tmp_path / "staging" / "clip0" / "rgb.mp4")) == 24


def test_sound_is_saved_with_the_frames(tmp_path, monkeypatch):
    from gpu_jobs.cosmos_generate.backends.cosmos1 import Cosmos1WorldModel

    decode = Cosmos1WorldModel.decode
    tone = np.sin(np.arange(6000) / 10, dtype=np.float32)[None].repeat(2, axis=0)

    def with_tone(world, *args):
        return Decoded(decode(world, *args).frames, sound=tone, sound_rate_hz=16000)

    monkeypatch.setattr(Cosmos1WorldModel, "decode", with_tone)
    cosmos_generate(small_spec(tmp_path, count=1, save_dir=str(tmp_path / "out")))
    with av.open(str(tmp_path / "out" / "clip0.mp4")) as file:
        assert [stream.type for stream in file.streams] == ["video", "audio"]
    assert "clip0.sound.flac" in {m.name for m in read_pack_index(tmp_path / "pack.tar")}


def test_two_processes_make_one_clip_together(tmp_path):
    spec = small_spec(tmp_path, count=1, cp_size=2)
    (tmp_path / "spec.json").write_text(json.dumps(asdict(spec)))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    job = [*launcher, "-m", "gpu_jobs.cosmos_generate.job", str(tmp_path / "spec.json")]
    done = subprocess.run(job, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    alone = cosmos_generate(small_spec(tmp_path / "alone", count=1))
    assert [clip["recipe_id"] for clip in report["clips"]] == ["clip0"]
    pair = [
        np.stack(frames_of(f / "staging/clip0/rgb.mp4")) for f in (tmp_path, tmp_path / "alone")
    ]
    assert np.abs(pair[0].astype(int) - pair[1].astype(int)).mean() < 1.0
    assert alone.clips


def test_a_prompt_is_written_from_the_picture_alone(tmp_path):
    from gpu_jobs.cosmos_generate.tiny.upsamplers import write_tiny_upsampler

    picture = tmp_path / "first.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (48, 64, 3), np.uint8)).save(picture)
    write_tiny_upsampler("Pixtral-12B", tmp_path / "Pixtral-12B")
    request = {"clip_id": "a", "conditioning": {"path": str(picture), "num_frames": 1}}
    spec = small_spec(
        tmp_path,
        model=VIDEO2WORLD,
        requests=(request,),
        upsampler={"name": "Pixtral-12B", "mode": "picture", "dir": str(tmp_path / "Pixtral-12B")},
        save_dir=str(tmp_path / "out"),
    )
    report = cosmos_generate(spec)
    assert report.generations[0]["prompt"] == ""
    assert report.generations[0]["upsampled_prompt"]


def test_a_prompt_that_is_too_long_stops_its_own_clip_only(tmp_path):
    long = {**asked_clips(1)[0], "clip_id": "long", "prompt": "Zyzzyva quixotry. " * 200}
    spec = small_spec(tmp_path, max_failed_share=0.5)
    report = cosmos_generate(replace(spec, requests=(*spec.requests, long)))
    assert len(report.clips) == 2
    assert [(row["recipe_id"], row["stage"]) for row in report.failures] == [("long", "encode")]
    assert "512" in report.failures[0]["reason"]
