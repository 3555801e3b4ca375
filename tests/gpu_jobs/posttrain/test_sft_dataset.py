"""The list of Cosmos 3's published training as a folder of footage."""

import json
from pathlib import Path

import numpy as np
import pytest

from gpu_jobs.posttrain.base import Bases
from gpu_jobs.posttrain.footage import read_folder, read_window, windows_of
from gpu_jobs.posttrain.sft_dataset import CAPTION_FIELDS, caption_of_window
from gpu_jobs.posttrain.training import train
from tests.gpu_jobs.posttrain.folders import write_video
from tests.gpu_jobs.posttrain.tiny_footage import SHAPE, spec
from worldloop.cosmos.families import ClipShape
from worldloop.errors import MalformedRecordError
from worldloop.federation.rounds import Training

LAST, STRUCTURED = 39, {"subjects": [{"description": "A tram"}], "fps": 24, "context": "Tōkyō"}


def window(start, end, *, interval=1, **captions):
    return {
        "start_frame": start,
        "end_frame": end,
        "temporal_interval": interval,
        **(captions or {"caption": "A square"}),
    }


def write_list(folder, *videos, name="video_dataset_file.jsonl", num_frames=LAST + 1):
    """A list with `uuid: windows`, and 40 frames a video."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for uuid, windows in videos:
        write_video(path.parent / "videos" / f"{uuid}.mp4", num_frames)
        record = {"uuid": uuid, "duration": 1.7, "width": 64, "height": 48}
        record |= {"vision_path": f"videos/{uuid}.mp4", "t2w_windows": windows}
        lines.append(json.dumps(record))
    path.write_text("\n".join(lines) + "\n")
    return folder


def training(num_frames=5, **changes):
    return Training(ClipShape(num_frames, 64, 48, 24), **changes)


@pytest.mark.parametrize("name", ["video_dataset_file.jsonl", "train/video_dataset_file.jsonl"])
def test_every_window_of_a_video_is_a_clip_with_its_caption(tmp_path, name):
    windows = [window(0, 19, caption_json=STRUCTURED, caption="Prose."), window(20, LAST)]
    clips = read_folder(write_list(tmp_path, ("b", windows), ("a", windows[:1]), name=name))
    assert [clip.name for clip in clips] == ["a_w0", "b_w0", "b_w1"]
    assert [len(clip.span) for clip in clips] == [20, 20, 20]
    assert json.loads(clips[1].caption) == STRUCTURED
    assert "Tōkyō" in clips[1].caption
    assert clips[2].caption == "A square."


def test_windows_of_the_plan_lie_within_the_listed_ones(tmp_path):
    windows = [window(10, 21), window(0, LAST, interval=2), window(30, 900)]
    clips = read_folder(write_list(tmp_path, ("a", windows)))
    found = windows_of(clips, training())
    frames = [list(each.frames) for each in found]
    assert frames[:2] == [[10, 11, 12, 13, 14], [15, 16, 17, 18, 19]]
    assert frames[2:6] == [list(range(start, start + 10, 2)) for start in (0, 10, 20, 30)]
    assert frames[6:] == [[30, 31, 32, 33, 34], [35, 36, 37, 38, 39]]
    assert [list(each.frames)[::4] for each in windows_of(clips[1:2], training(sequence_interval=2))] == [
        [0, 16],
        [20, 36],
    ]  # fmt: skip
    picture = read_window(clips[1], found[3], SHAPE)
    assert picture.shape == (5, 48, 64, 3)
    brightness = np.median(picture.reshape(5, -1), axis=1)
    assert np.abs(brightness - [16 * n % 256 for n in found[3].frames]).max() < 12


def test_windows_without_room_are_left_out_and_none_at_all_is_an_error(tmp_path):
    clips = read_folder(write_list(tmp_path, ("a", [window(0, 3), window(5, 12)])))
    assert [each.clip for each in windows_of(clips, training())] == [1]
    with pytest.raises(MalformedRecordError, match="at most 4 frames"):
        windows_of(clips[:1], training())


def test_captions_are_taken_in_the_published_order(tmp_path):
    captions = {name: f"From {name}" for name in CAPTION_FIELDS}
    for name in CAPTION_FIELDS:
        assert caption_of_window(captions).startswith(f"From {name}")
        del captions[name]
    assert caption_of_window(captions) == ""
    assert caption_of_window({"caption_json": ' {"a": 1}  '}) == '{"a": 1}'


def test_a_window_without_a_caption_is_left_out(tmp_path, caplog):
    windows = [window(0, 9, note="none"), window(0, 9)]
    clips = read_folder(write_list(tmp_path, ("a", windows)))
    assert [clip.name for clip in clips] == ["a_w1"]
    assert "window_left_out" in caplog.text


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"vision_path": "s3://bucket/a.mp4"}, "Bring the videos into the folder"),
        ({"uuid": 7}, "line 1 of video_dataset_file.jsonl"),
        ({"t2w_windows": [{"start_frame": 9, "end_frame": 2}]}, "line 1 of"),
        ({"t2w_windows": [{"end_frame": 2}]}, "line 1 of"),
        ({"t2w_windows": []}, "no window with a caption"),
    ],
)
def test_odd_records_are_refused_by_line(tmp_path, change, found):
    path = write_list(tmp_path, ("a", [window(0, 9)])) / "video_dataset_file.jsonl"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(MalformedRecordError, match=found):
        read_folder(tmp_path)


SECRET = "The mayor of Springfield walks her dog"


def record_with(**changes):
    """A line of a list whose caption and name must stand in no error."""
    whole = {"uuid": "a", "vision_path": "a.mp4", "t2w_windows": [window(0, 9, caption=SECRET)]}
    return json.dumps({"note": SECRET, **whole, **changes})


@pytest.mark.parametrize(
    ("line", "field"),
    [
        (f'{{"caption": "{SECRET}', "JSON"),
        (json.dumps([SECRET]), "JSON object"),
        (record_with(uuid=None), "uuid"),
        (record_with(vision_path=[SECRET]), "vision_path"),
        (record_with(t2w_windows=SECRET), "t2w_windows"),
        (record_with(t2w_windows=[window(0, 9), SECRET]), "t2w_windows, window 1"),
        (record_with(t2w_windows=[window(SECRET, 9)]), "t2w_windows, window 0"),
        (record_with(t2w_windows=[window(9, 2)]), "t2w_windows, window 0"),
        (record_with(t2w_windows=[window(0, 9, interval=SECRET)]), "t2w_windows, window 0"),
        (record_with(t2w_windows=[window(0, float("inf"))]), "t2w_windows, window 0"),
        (record_with(vision_path=f"https://host/a.mp4?token={SECRET}"), "vision_path"),
    ],
)
def test_an_odd_line_is_named_by_number_and_field_and_never_quoted(tmp_path, line, field):
    (tmp_path / "video_dataset_file.jsonl").write_text(f"\n{line}\n")
    with pytest.raises(
        MalformedRecordError, match=r"line 2 of video_dataset_file\.jsonl"
    ) as caught:
        read_folder(tmp_path)
    assert field in str(caught.value)
    shown = f"{caught.value!s} {caught.value.args} {vars(caught.value)}"
    assert not any(word in shown for word in SECRET.split() if len(word) > 3)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_a_name_that_comes_twice_is_refused(tmp_path):
    path = write_list(tmp_path, ("a", [window(0, 9)])) / "video_dataset_file.jsonl"
    path.write_text(path.read_text() * 2)
    with pytest.raises(MalformedRecordError, match="a_w0 twice"):
        read_folder(tmp_path)


def test_cities_of_a_list_are_held_out_as_those_of_other_folders(tmp_path):
    path = write_list(tmp_path, ("a", [window(0, 9)])) / "video_dataset_file.jsonl"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"city": "rome"}))
    assert read_folder(tmp_path, exclude_cities=("rome",)) == []
    assert read_folder(tmp_path, cities=("rome",))[0].facts.place == "rome/"


@pytest.mark.parametrize(
    "meta", [{"caption_json": STRUCTURED, "caption": "Prose."}, STRUCTURED], ids=["field", "whole"]
)
def test_a_structured_caption_may_stand_in_metas(tmp_path, meta):
    write_video(tmp_path / "videos" / "a.mp4")
    (tmp_path / "metas").mkdir()
    (tmp_path / "metas" / "a.json").write_text(json.dumps(meta))
    (clip,) = read_folder(tmp_path)
    assert json.loads(clip.caption) == STRUCTURED


@pytest.mark.parametrize("name", ["Tiny-Cosmos3", "Tiny-Cosmos-1.0-Text2World"])
def test_any_family_trains_on_a_list(tmp_path, checkpoint_dir, name):
    from gpu_jobs.cosmos_generate.tiny import write_tiny_checkpoint

    write_tiny_checkpoint(name, checkpoint_dir)
    windows = [window(0, 19, caption_json=STRUCTURED), window(20, LAST)]
    write_list(tmp_path / "footage", ("a", windows))
    report = train(spec(tmp_path, checkpoint_dir, model=name), lambda event: None, Bases())
    assert (report.num_clips, report.num_windows) == (2, 4)
    assert len(json.loads((tmp_path / "footage" / "cache" / "hashes.json").read_text())) == 1
    assert Path(report.output_dir, "adapter.safetensors").is_file()


def test_footage_of_another_rate_than_the_model_is_told_is_logged(tmp_path, checkpoint_dir, caplog):
    write_list(tmp_path / "footage", ("a", [window(0, LAST, interval=2)]))
    train(spec(tmp_path, checkpoint_dir), lambda event: None, Bases())
    assert '"rate_differs", "told_fps": 24, "found_fps": 12.0' in caplog.text
