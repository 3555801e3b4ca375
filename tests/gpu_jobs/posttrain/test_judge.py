"""Judging clips: every score names its judge, and says no more than its clips show."""

from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image

from gpu_jobs.common.video import VideoFile, to_yuv420
from gpu_jobs.posttrain.features import (
    KernelDistance,
    pooled_latent,
    read_clip,
    temporal_consistency,
)
from gpu_jobs.posttrain.judge import judge
from gpu_jobs.posttrain.spec import JudgeSpec
from tests.gpu_jobs.posttrain.tiny_footage import TEXT2WORLD, moving_square
from worldloop.errors import MalformedRecordError
from worldloop.federation.drift import frechet_squared
from worldloop.federation.evaluation import Score

PROMPTS = ["A red square.", "A blue square.", "A green square."]


def write(path, frames):
    with VideoFile(path, size=(64, 48), rate_fps=24) as file:
        for frame in frames:
            file.add(to_yuv420(np.ascontiguousarray(frame)))
    return str(path)


def noisy(frames, seed):
    noise = np.random.default_rng(seed).integers(-60, 60, frames.shape)
    return np.clip(frames.astype(int) + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Noisy squares before, clean ones after, and clean footage."""
    folder = tmp_path_factory.mktemp("judged")
    (folder / "footage" / "videos").mkdir(parents=True)
    for number in range(5):
        write(folder / "footage" / "videos" / f"c{number}.mp4", moving_square(number, 9))
    before = [write(folder / f"b{n}.mp4", noisy(moving_square(10 + n, 9), n)) for n in range(3)]
    after = [write(folder / f"a{n}.mp4", moving_square(10 + n, 9)) for n in range(3)]
    return folder, before, after


def spec(clips, **changes):
    folder, before, after = clips
    groups = (
        {"name": "before", "clips": before, "prompts": PROMPTS},
        {"name": "after", "clips": after, "prompts": PROMPTS},
    )
    fields = {"groups": groups, "footage_dir": str(folder / "footage"), "device": "cpu"}
    return JudgeSpec(**{**fields, **changes})


@pytest.fixture(scope="module")
def report(clips):
    return judge(spec(clips, sheet_path=str(clips[0] / "sheets" / "sheet.png")))


def scores(report):
    return {(row["group"], row["measure"]): Score(**row) for row in report.scores}


def test_every_measure_has_a_judge_an_interval_and_a_paired_change(report):
    found = scores(report)
    measures = {"kernel_distance_starter", "kernel_distance_latent", "text_cosine",
                "temporal_consistency", "sharpness", "motion"}  # fmt: skip
    assert {measure for group, measure in found if group == "after - before"} == measures
    assert all(one.judge and one.low <= one.high for one in found.values())
    change = found["after - before", "motion"]
    assert change.value == pytest.approx(
        found["after", "motion"].value - found["before", "motion"].value
    )


def test_clean_clips_are_nearer_to_footage_and_steadier_than_noisy_ones(report):
    found = scores(report)
    for space in ("kernel_distance_starter", "kernel_distance_latent"):
        assert found["after", space].value < found["before", space].value
    assert found["after - before", "kernel_distance_latent"].high < 0
    assert found["after - before", "temporal_consistency"].low > 0
    assert found["before", "sharpness"].value > found["after", "sharpness"].value


def test_the_sheet_shows_the_groups_side_by_side_with_white_between(report):
    with Image.open(report.sheet_path) as sheet:
        assert sheet.size == (6 * 192 + 12, 3 * 144)
        between = np.asarray(sheet.convert("RGB"))[:, 3 * 192 : 3 * 192 + 12]
    assert (between == 255).all()


def test_a_report_has_a_row_a_sample_and_no_prompt(report):
    assert [(row["group"], row["index"]) for row in report.clips] == [
        (group, index) for group in ("before", "after") for index in range(3)
    ]
    assert "square" not in str(asdict(report)["scores"]) + str(report.clips)
    assert report.wall_s > 0 == report.gpu_s


def test_the_second_space_can_be_the_autoencoder_of_a_model(clips, checkpoint_dir):
    found = judge(
        spec(clips, model=TEXT2WORLD, checkpoint_dir=str(checkpoint_dir), precision="fp32")
    )
    distance = scores(found)["after", "kernel_distance_latent"]
    assert distance.judge == f"autoencoder of {TEXT2WORLD}"
    assert np.isfinite(distance.value)


def test_groups_of_other_prompts_are_not_paired(clips):
    asked = spec(clips, footage_dir="")
    other = {**asked.groups[1], "prompts": PROMPTS[::-1]}
    found = scores(judge(spec(clips, footage_dir="", groups=(asked.groups[0], other))))
    assert {group for group, _ in found} == {"before", "after"}
    assert ("after", "kernel_distance_starter") not in found


def test_few_clips_bias_the_frechet_distance_and_not_the_kernel_distance():
    rng = np.random.default_rng(0)
    kernel, frechet = [], []
    for _ in range(30):
        one, two = rng.normal(size=(8, 32)), rng.normal(size=(64, 32))
        kernel.append(KernelDistance(two).to(one).value)
        moments = [(each.mean(axis=0), np.cov(each.T)) for each in (one, two)]
        frechet.append(frechet_squared(*moments[0], *moments[1]))
    apart = KernelDistance(rng.normal(size=(64, 32))).to(rng.normal(1, 1, size=(8, 32))).value
    assert abs(np.mean(kernel)) < 0.02 * apart
    assert np.mean(frechet) > 0.5 * 32  # as far as a mean that is off by 0.7 everywhere


def test_resampling_a_distance_adds_no_bias():
    rng = np.random.default_rng(1)
    distances = [
        KernelDistance(rng.normal(size=(40, 8)), str(n)).to(rng.normal(size=(10, 8)))
        for n in range(40)
    ]
    middle = np.mean([(one.low + one.high) / 2 for one in distances])
    spread = np.mean([one.high - one.low for one in distances])
    assert abs(middle) < 0.25 * spread


def test_temporal_consistency_is_high_for_motion_and_low_for_flicker():
    rng = np.random.default_rng(3)
    picture = rng.random((72, 140)).astype(np.float32).repeat(1, axis=0)
    smooth = np.stack([[picture[:, n : n + 128], picture[:, n + 2 : n + 130]] for n in range(4)])
    flicker = rng.random((4, 2, 72, 128)).astype(np.float32)
    assert temporal_consistency(smooth) > 0.9
    assert temporal_consistency(flicker) < 0.6
    assert temporal_consistency(smooth) > temporal_consistency(flicker) + 0.3


def test_a_clip_is_decoded_into_frames_and_neighbouring_pairs(clips):
    clip = read_clip(clips[0] / "a0.mp4", num_frames=4)
    assert clip.frames.shape == (4, 48, 64, 3)
    assert clip.luma.shape == (4, 2, 96, 128)
    assert clip.size == (64, 48)
    assert pooled_latent(np.ones((16, 3, 2, 2), np.float32)).shape == (48,)


def test_what_cannot_be_judged_is_one_clear_error(clips, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    for group, words in (
        ({"name": "footage", "clips": [], "prompts": []}, "groups to judge"),
        ({"name": "after", "clips": clips[1], "prompts": PROMPTS[:1]}, "one prompt each"),
        ({"name": "after", "clips": [str(broken)], "prompts": ["A"]}, "clip broken.mp4"),
    ):
        with pytest.raises(MalformedRecordError, match=words):
            judge(spec(clips, groups=(group,)))
