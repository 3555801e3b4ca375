import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from gpu_jobs.cosmos_generate import quality, quality_report
from gpu_jobs.cosmos_generate.quality import QualityRequest, Runner, Variant
from gpu_jobs.cosmos_generate.quality_frames import compare, read_frames, write_frames
from gpu_jobs.cosmos_generate.quality_report import bootstrap, measure, merged
from gpu_jobs.cosmos_generate.quality_sweep import GRID, grid_of, read_axes, read_sweep
from gpu_jobs.cosmos_generate.tiny import write_tiny_checkpoint
from worldloop.cosmos.families import ClipShape
from worldloop.cosmos.gates import METRICS, Measured, judge
from worldloop.cosmos.profiles import PROFILES
from worldloop.errors import MalformedRecordError, UnknownKeyError
from worldloop.seeds import stream

NAME = "Tiny-Cosmos-1.0-Text2World"


def clip(seed: int = 0, *, noise: float = 0.0) -> np.ndarray:
    """A smooth moving pattern, uint8 (9, 32, 64, 3), with some noise."""
    t, y, x = np.meshgrid(np.arange(9), np.arange(32), np.arange(64), indexing="ij")
    wave = 127 + 100 * np.sin((x + 3 * t + 11 * seed) / 7) * np.cos(y / 9)
    rough = noise * stream(seed, "noise").normal(size=wave.shape)
    return np.repeat(np.clip(wave + rough, 0, 255).astype(np.uint8)[..., None], 3, axis=-1)


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quality")
    checkpoint = write_tiny_checkpoint(NAME, folder)
    given = {
        "checkpoint": checkpoint,
        "profiles": "sparse,cached,fast_fp8_attention",
        "out": folder / "out",
        "frames": 9,
        "width": 64,
        "height": 32,
        "steps": 6,
        "prompts": 2,
        "device": "cpu",
    }
    assert quality.main([f"--{name}={value}" for name, value in given.items()]) == 0
    return folder / "out"


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    checkpoint = write_tiny_checkpoint(NAME, folder)
    given = ["--checkpoint", str(checkpoint), "--adapted", str(checkpoint.parent / "copy")]
    shutil.copytree(checkpoint, checkpoint.parent / "copy")
    given += ["--frames=9", "--width=64", "--height=32", "--steps=4", "--prompts=2", "--device=cpu"]
    given += ["--out", str(folder / "out"), "--sweep", "density=1,0.5", "cache_every=2"]
    assert quality.main([*given, "dense_first_steps=1"]) == 0
    return folder / "out"


def test_a_clip_equals_itself_and_noise_is_seen():
    same, noisy = compare(clip(), clip()), compare(clip(noise=10.0), clip())
    assert same == {
        "psnr_db": 100.0,
        "ssim": pytest.approx(1),
        "detail_ratio": 1,
        "motion_ratio": 1,
    }
    assert noisy["psnr_db"] == pytest.approx(20 * np.log10(255 / 10), abs=0.5)
    assert noisy["ssim"] < 0.9
    assert noisy["detail_ratio"] > 1.2
    assert compare(clip(1), clip())["psnr_db"] < 20


def test_a_clip_that_stands_still_has_lost_its_motion():
    frozen = np.repeat(clip()[:1], 9, axis=0)
    assert compare(frozen, clip())["motion_ratio"] == 0
    assert compare(frozen, clip())["detail_ratio"] == pytest.approx(1, abs=0.05)


def test_kept_frames_are_what_was_written_in_files_of_bounded_size(tmp_path, monkeypatch):
    monkeypatch.setattr("gpu_jobs.cosmos_generate.quality_frames.PART_MB", 0.01)
    paths = write_frames(tmp_path, {"exact": [clip(0), clip(1)], "a/b": [clip(2)]})
    assert len(paths) > 1
    found = read_frames(tmp_path)
    assert {name: len(shown) for name, shown in found.items()} == {"exact": 2, "a/b": 1}
    assert np.array_equal(found["exact"][1], clip(1)[[0, 2, 4, 6, 8]])


def test_every_profile_is_compared_with_the_dense_run(generated):
    record = json.loads((generated / "paired.json").read_text())
    variants = record["variants"]
    assert list(variants) == sorted(variants)
    assert {pair["psnr_db"] for pair in variants["exact"]["pairs"]} == {100.0}
    assert all(30 < pair["psnr_db"] < 100 for pair in variants["noise_floor"]["pairs"])
    assert all(pair["psnr_db"] < 30 for pair in variants["other_seed"]["pairs"])
    assert variants["cached"]["num_forwards"] < variants["sparse"]["num_forwards"]
    with Image.open(generated / "sheet-sparse.png") as sheet:
        assert sheet.size == (6 * 64, 2 * 32)


def test_a_profile_that_cannot_run_here_is_noted_and_left_out(generated):
    record = json.loads((generated / "paired.json").read_text())
    row = record["variants"]["fast_fp8_attention"]
    assert row["problem"].startswith("MissingExtraError")
    assert row["pairs"] == []
    assert "fast_fp8_attention" not in read_frames(generated)


def test_the_report_has_every_metric_of_every_profile_and_a_verdict(generated, tmp_path, capsys):
    out = tmp_path / "found.json"
    arguments = ["--frames", str(generated), "--out", str(out), "--date", "2026-01-02"]
    assert quality_report.main(arguments) == 0
    found = json.loads(out.read_text())
    assert set(found["profiles"]) == {"sparse", "cached"}
    assert set(found["not_run"]) == {"fast_fp8_attention"}
    for name, row in found["profiles"].items():
        measured = Measured.from_record(row)
        assert set(measured.metrics) == set(METRICS)
        assert judge(name, row).state in ("passed", "failed")
        assert measured.controls["other_seed"]["feature_distance"].mean > 0
    assert "| other_seed |" in capsys.readouterr().out


def test_a_sweep_runs_each_variant_once_on_one_model_and_reports_its_work(swept, capsys):
    record = json.loads((swept / "paired.json").read_text())
    points = {name: row for name, row in record["variants"].items() if row["swept"]}
    assert set(points) == {
        "dense every 2",
        "density 0.5 first 1 every 2",
        "density 0.5 first 1 every 2_adapted",
    }
    assert points["dense every 2"]["work_share"] > 0.5
    ours, theirs = (points[f"density 0.5 first 1 every 2{end}"] for end in ("", "_adapted"))
    assert ours["pairs"] == theirs["pairs"]  # the same weights were given twice
    assert (ours["weights"], theirs["weights"]) == ("original", "adapted")
    assert quality_report.main(["--frames", str(swept)]) == 0
    assert "| work | way to another seed |" in capsys.readouterr().out
    assert read_frames(swept)["exact"][0].shape == (2, 32, 64, 3)


def test_a_swept_variant_gives_the_clips_of_a_profile_of_its_own(tmp_path):
    profile = grid_of({"density": [0.5], "cache_every": [2]})[0]
    checkpoint = write_tiny_checkpoint(NAME, tmp_path)
    request = QualityRequest(
        checkpoint, NAME, (), ("a",), ClipShape(9, 64, 32, 24), 4, device="cpu", sweep=(profile,)
    )
    runner = Runner(request)
    shared = Variant("a", profile, "bfloat16", checkpoint, is_swept=True)
    clips = [next(runner.clips(one))[0] for one in (shared, replace(shared, is_swept=False))]
    assert np.array_equal(*clips)


def test_axes_of_a_sweep_are_read_and_bad_ones_named():
    assert read_axes([]) == dict(GRID)
    assert read_axes(["cache_every=1,3"]) == {"cache_every": (1, 3)}
    assert len(grid_of(GRID)) == 42
    with pytest.raises(UnknownKeyError, match="Did you mean 'density'"):
        read_axes(["densty=1"])
    with pytest.raises(MalformedRecordError, match="numbers with commas"):
        read_axes(["density=a"])


def test_a_variant_of_two_grids_is_run_once():
    words = ["density=1", "cache_every=1,2", "+", "density=1", "cache_every=2,3"]
    names = [one.name for one in read_sweep(words)]
    assert names == ["dense", "dense every 2", "dense every 3"]
    assert len(read_sweep([])) == len(grid_of(GRID))


def test_a_swept_variant_that_is_a_profile_counts_as_its_measurement(swept, monkeypatch):
    cached = PROFILES["cached"]
    same = replace(grid_of({"cache_every": [2]})[0], name="cached")
    monkeypatch.setattr(quality_report, "PROFILES", {"cached": cached})
    assert measure(swept)["profiles"] == {}
    monkeypatch.setattr(quality_report, "PROFILES", {"cached": same})
    found = measure(swept)["profiles"]
    assert found["cached"]["profile"] == same.to_record()
    assert set(found) == {"cached"}


def test_measurements_of_one_request_are_merged_and_others_refused(generated):
    one = measure(generated, date="2026-01-02")
    later = {**one, "profiles": {"fast_fp8_attention": {}}, "not_run": {}}
    both = merged([one, later])
    assert set(both["profiles"]) == {"sparse", "cached", "fast_fp8_attention"}
    assert both["not_run"] == {}
    with pytest.raises(MalformedRecordError, match="num_steps"):
        merged([one, {**later, "num_steps": 7}])


def test_an_interval_is_wider_for_values_that_differ_and_the_same_each_time():
    narrow, wide = bootstrap([1.0, 1.1, 0.9], "a"), bootstrap([0.0, 1.0, 2.0], "a")
    assert wide.high - wide.low > 5 * (narrow.high - narrow.low)
    assert wide == bootstrap([0.0, 1.0, 2.0], "a")


def test_an_unknown_profile_and_an_empty_folder_are_clear_errors(tmp_path, capsys):
    given = ["--checkpoint", str(tmp_path), "--out", str(tmp_path / "o"), "--profiles", "sparce"]
    assert quality.main(given) == 1
    assert "Did you mean 'sparse'?" in capsys.readouterr().err
    with pytest.raises(MalformedRecordError, match=r"no frames-\*\.npz"):
        read_frames(tmp_path)
