import json

import numpy as np
import pytest

from gpu_jobs.posttrain.footage import read_folder, read_window, windows_of
from tests.gpu_jobs.posttrain.folders import list_clips, write_folder, write_video
from worldloop.cosmos.families import ClipShape
from worldloop.errors import JobFailedError, MalformedRecordError
from worldloop.federation.rounds import Training

NAMES = {"b": "A bus.", "a": "An apple.", "c": "A cat."}


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "data", NAMES)


def training(num_frames=5, **changes):
    return Training(shape=ClipShape(num_frames, 64, 48, 24), **changes)


def starts(clips, **changes):
    return [window.first_frame for window in windows_of(clips, training(**changes))]


def brightness(frames):
    """Which frame of `write_video` each of these is."""
    return [round(float(frame[30:, :, 0].mean()) / 16) for frame in frames]


def test_clips_come_in_order_of_their_names_with_captions_and_lengths(folder):
    clips = read_folder(folder)

    assert [(clip.name, clip.caption, clip.num_frames) for clip in clips] == [
        ("a", "An apple.", 12),
        ("b", "A bus.", 12),
        ("c", "A cat.", 12),
    ]
    assert clips[0].rate_fps == 24


def test_clips_jsonl_says_where_a_clip_is_from_and_which_clips_there_are(folder):
    list_clips(folder, {"a": "tokyo", "b": "lima"})

    assert [clip.facts.place for clip in read_folder(folder)] == ["tokyo/zoo", "lima/zoo"]
    assert [clip.name for clip in read_folder(folder, ["lima"])] == ["a"]
    assert [clip.name for clip in read_folder(folder, cities=["lima"])] == ["b"]
    assert read_folder(folder, ["lima", "tokyo"]) == []


def test_fewer_clips_are_evenly_spaced(folder):
    assert [clip.name for clip in read_folder(folder, max_clips=2)] == ["a", "c"]


@pytest.mark.parametrize(
    ("found", "caption"),
    [("plain", "plain"), ({"caption": "told"}, "told"), ({"texts": ["first", "next"]}, "first")],
)
def test_a_caption_may_be_json(folder, found, caption):
    (folder / "metas" / "a.txt").unlink()
    (folder / "metas" / "a.json").write_text(json.dumps(found))
    assert read_folder(folder)[0].caption == caption


def test_a_folder_without_videos_is_refused(tmp_path):
    with pytest.raises(MalformedRecordError, match="found 'no videos'"):
        read_folder(tmp_path)


def test_a_clip_without_words_is_named(folder):
    (folder / "metas" / "b.txt").unlink()
    with pytest.raises(MalformedRecordError, match=r"metas/b\.txt"):
        read_folder(folder)


def test_two_videos_of_one_name_are_refused(folder):
    write_video(folder / "videos" / "a.mkv")
    with pytest.raises(MalformedRecordError, match="several videos named 'a'"):
        read_folder(folder)


def test_an_odd_line_of_clips_jsonl_is_refused(folder):
    (folder / "clips.jsonl").write_text('{"city": "tokyo"}\n')
    with pytest.raises(MalformedRecordError, match=r"clips\.jsonl"):
        read_folder(folder)


@pytest.mark.parametrize("line", ["{{'caption': '{0}'", '["{0}"]', '{{"city": "{0}"}}'])
def test_an_odd_line_of_clips_jsonl_is_named_and_never_quoted(folder, line):
    secret = "The mayor of Springfield"
    (folder / "clips.jsonl").write_text(f"\n{line.format(secret)}\n")
    with pytest.raises(MalformedRecordError, match=r"line 2 of clips\.jsonl") as caught:
        read_folder(folder)
    assert "Springfield" not in f"{caught.value!s} {vars(caught.value)}"
    assert caught.value.__context__ is None


@pytest.mark.parametrize("damage", [lambda whole: b"no video", lambda whole: whole[:-900]])
def test_one_corrupt_or_cut_video_is_left_out_and_said(folder, caplog, damage):
    broken = folder / "videos" / "b.mp4"
    broken.write_bytes(damage(broken.read_bytes()))

    assert [clip.name for clip in read_folder(folder)] == ["a", "c"]
    assert json.loads(caplog.messages[0])["video"] == "b.mp4"


def test_many_corrupt_videos_end_the_job_by_name(folder):
    for name in "ab":
        (folder / "videos" / f"{name}.mp4").write_bytes(b"no video")
    with pytest.raises(JobFailedError, match=r"2 of 3 videos .* First a\.mp4"):
        read_folder(folder)


def test_windows_start_where_the_published_loader_starts_them(folder):
    clips = read_folder(folder)[:1]

    assert starts(clips, start_frame_interval=1) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert starts(clips, start_frame_interval=3) == [0, 3, 6]
    assert starts(clips, sequence_interval=2, start_frame_interval=1) == [0, 1, 2, 3]
    assert starts(clips) == [0, 5]
    assert starts(clips, num_frames=12) == [0]


def test_a_short_video_gives_no_window_and_only_short_ones_are_refused(folder):
    write_video(folder / "videos" / "b.mp4", 3)
    clips = read_folder(folder)

    assert {window.clip for window in windows_of(clips, training())} == {0, 2}
    with pytest.raises(MalformedRecordError, match="at most 3 frames"):
        windows_of(clips[1:2], training())


@pytest.mark.parametrize("kind", [".mp4", ".mkv", ".avi"])
def test_a_window_has_its_own_frames_whatever_the_container(tmp_path, kind):
    folder = write_folder(tmp_path, {"a": "x"})
    whole = (folder / "videos" / "a.mp4").rename(folder / "videos" / "kept")
    write_video(folder / "videos" / f"a{kind}", 40)
    whole.unlink()
    (clip,) = read_folder(folder)
    window = windows_of([clip], training(sequence_interval=2, start_frame_interval=3))[1]

    frames = read_window(clip, window, ClipShape(5, 64, 48, 24))
    assert brightness(frames) == [3, 5, 7, 9, 11]


def test_pictures_are_stretched_to_the_size_that_is_asked_for(folder):
    clip = read_folder(folder)[0]
    window = windows_of([clip], training())[0]

    frames = read_window(clip, window, ClipShape(5, 32, 64, 24))
    assert frames.shape == (5, 64, 32, 3)
    bright = frames[0, :, :, 0] > 128
    assert (bright.any(axis=1).sum(), bright.any(axis=0).sum()) == pytest.approx((21, 8), abs=1)
    assert frames.dtype == np.uint8


def test_a_video_that_shrank_after_it_was_found_is_named(folder):
    clip = read_folder(folder)[0]
    window = windows_of([clip], training())[1]
    write_video(clip.video, 6)
    with pytest.raises(MalformedRecordError, match=r"video a\.mp4"):
        read_window(clip, window, ClipShape(5, 64, 48, 24))
