"""Footage to train on: a folder in the layout of the published post-training guides.

    videos/NAME.mp4        or another container that FFmpeg reads
    metas/NAME.txt         the caption; NAME.json may stand instead
    t5_xxl/NAME.pickle     its T5 encoding, see `pickles`; may be absent
    clips.jsonl            one `FootageClip` a line; may be absent, else it lists the clips

or, without `clips.jsonl`, the JSONL list of Cosmos 3's published training, see `sft_dataset`.
Windows of frames are those of the published loader (cosmos_predict1/diffusion/training/datasets/
dataset_video.py, nvidia-cosmos/cosmos-predict1, commit 4ed35fa): from every `start_frame_interval`-th
frame on, `num_frames` frames, every `sequence_interval`-th; what the video cannot fill is left out.
Pictures are resized straight to the window's size, bilinear and antialiased, as `Resize_Preprocess`
of dataset_utils.py beside it does; both its sides are given, so nothing is cropped. It resizes
floating-point tensors and cuts off, here pictures of 8 bits are resized, which differs by rounding.
"""

# T frames, H height, W width

import contextlib
import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from gpu_jobs.cosmos_generate.media import BILINEAR, MediaRule, fit_frames
from gpu_jobs.posttrain.sft_dataset import ListedWindow, dataset_file, listed_windows
from gpu_jobs.posttrain.spec import FootageClip
from worldloop.cosmos.families import ClipShape
from worldloop.errors import JobFailedError, MalformedRecordError
from worldloop.federation.rounds import Training

Frames = NDArray[np.uint8]

VIDEOS, METAS, PICKLES, CLIPS_NAME = "videos", "metas", "t5_xxl", "clips.jsonl"
VIDEO_TYPES = (".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts")
MOST_UNREADABLE = 0.1
"""A larger share of videos that cannot be read ends the job; a single one never does."""
_KEEP_TIMES = ("mov", "matroska", "mpegts")  # AVI tells decoding times for presentation times
STRETCHED = MediaRule("first", "stretch", BILINEAR)
"""`Resize_Preprocess` of Predict1, see this module; Cosmos 3 has a rule of its own."""
# scripts/get_t5_embeddings_from_bridge.py of cosmos-predict1 (commit 4ed35fa) takes texts[0]
_CAPTION_FIELDS = ("caption_json", "caption", "prompt", "texts")
# of the structured captions that Cosmos 3's captioner writes as caption.json (docs/dataset_jsonl.md of
# NVIDIA/cosmos-framework, commit 5eee9ed)
_STRUCTURED_FIELDS = ("temporal_caption", "subjects")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FolderClip:
    """A clip of a folder, found and looked over, not decoded.

    Attributes:
        facts: What is known of it.
        video: Its file.
        caption: In words; empty if only its encoding is there.
        pickle: Its T5 encoding; None without.
        num_frames: Frames of the file.
        rate_fps: Frames per second of the file; 0 where it does not say.
        times: Presentation time of each frame, in the stream's ticks; empty where the file has none.
        first_frame: Where the clip begins in the file.
        end_frame: The frame behind its last one; 0: that of the file.
        interval: Every so-manieth frame of the file belongs to it.
    """

    facts: FootageClip
    video: Path
    caption: str
    pickle: Path | None
    num_frames: int
    rate_fps: float
    times: tuple[int, ...] = ()
    first_frame: int = 0
    end_frame: int = 0
    interval: int = 1

    @property
    def name(self) -> str:
        """Of its files, without ending."""
        return self.facts.name

    @property
    def span(self) -> range:
        """Numbers of its frames in the file."""
        end = min(self.end_frame or self.num_frames, self.num_frames)
        return range(self.first_frame, max(end, self.first_frame), self.interval)


@dataclass(frozen=True)
class Window:
    """Frames of a clip that one training sample is made of.

    Attributes:
        clip: Number of the clip in its list.
        first_frame: Number of the first frame.
        interval: Step from one frame to the next.
        num_frames: How many.
    """

    clip: int
    first_frame: int
    interval: int
    num_frames: int

    @property
    def frames(self) -> range:
        """Numbers of its frames."""
        return range(
            self.first_frame, self.first_frame + self.num_frames * self.interval, self.interval
        )


def read_folder(
    folder: Path,
    exclude_cities: Collection[str] = (),
    *,
    cities: Collection[str] = (),
    max_clips: int = 0,
) -> list[FolderClip]:
    """The clips of a folder in order of their names; no frame is decoded.

    A video that cannot be read is logged and left out, up to `MOST_UNREADABLE` of all.

    Args:
        folder: Holds `videos/` and the rest, see this module.
        exclude_cities: Clips of these cities are left out.
        cities: Only clips of these cities; empty: all.
        max_clips: So many, evenly spaced; 0: all.

    Returns:
        Perhaps none, if cities leave none over.

    Raises:
        MalformedRecordError: If there are no videos, a clip has neither caption nor encoding, or
            `clips.jsonl` is odd.
        JobFailedError: If too many videos cannot be read; names them.
    """
    chosen = [
        each
        for each in _listed(folder)
        if each.facts.city not in exclude_cities and (not cities or each.facts.city in cities)
    ]
    if 0 < max_clips < len(chosen):
        spaced = np.linspace(0, len(chosen) - 1, max_clips).round().astype(int)
        chosen = [chosen[index] for index in spaced]
    _check_texts(folder, [each.facts.name for each in chosen if isinstance(each, _Listed)])
    clips: list[FolderClip] = []
    unreadable: dict[str, str] = {}
    known: dict[Path, _Frames] = {}
    for each in chosen:
        video = each.video
        try:
            if video.name not in unreadable:
                known[video] = known.get(video) or _frames_in(video)
                clips.append(_looked_over(folder, each, known[video]))
        except _UnreadableVideoError as error:
            unreadable[video.name] = str(error)
            log.warning(
                json.dumps(
                    {"event": "video_left_out", "video": video.name, "reason": str(error)[:200]}
                )
            )
    _check_share(folder, unreadable, len({each.video for each in chosen}))
    return clips


def windows_of(clips: Sequence[FolderClip], training: Training) -> list[Window]:
    """The windows that a step can draw from, clip by clip.

    Args:
        clips: Of `read_folder`; those that are too short give none, and are logged.
        training: Its shape, `sequence_interval` and `start_frame_interval`.

    Returns:
        Perhaps none, if there are no clips.

    Raises:
        MalformedRecordError: If there are clips and all of them are too short.
    """
    count, interval = training.shape.num_frames, training.sequence_interval
    reach = (count - 1) * interval + 1
    windows = [
        Window(number, first, interval * clip.interval, count)
        for number, clip in enumerate(clips)
        for first in clip.span[
            : max(0, len(clip.span) - reach + 1) : training.start_frame_interval or count * interval
        ]
    ]
    short = [clip for clip in clips if len(clip.span) < reach]
    if short and len(short) == len(clips):
        longest = max(clips, key=lambda clip: len(clip.span))
        raise MalformedRecordError(
            f"length of {len(clips)} video(s)",
            f"at most {len(longest.span)} frames ({longest.video.name})",
            f"at least {reach}: {count} frames, every {interval}.",
            "Train with fewer num_frames or a smaller sequence_interval, or give longer videos.",
        )
    for clip in short:
        log.warning(
            json.dumps(
                {
                    "event": "video_left_out",
                    "video": clip.video.name,
                    "reason": f"{len(clip.span)} frames; a window takes {reach}",
                }
            )
        )
    return windows


def read_window(
    clip: FolderClip, window: Window, shape: ClipShape, *, rule: MediaRule = STRETCHED
) -> Frames:
    """The frames of a window, resized, uint8 (T, H, W, 3).

    Args:
        clip: Of the window.
        window: Which frames.
        shape: Their size.
        rule: How they are fitted to it.

    Raises:
        MalformedRecordError: If the video has other frames than it was found with.
    """
    wanted = window.frames
    found: list[Frames] = []
    try:
        for number, frame in _decoded_from(clip, wanted[0]):
            if number in wanted:
                found.append(_fitted(frame, shape, rule))
            if len(found) == len(wanted):
                break
    except (av.FFmpegError, OSError) as error:
        raise _damaged(clip, str(error)) from error
    if len(found) < len(wanted):
        raise _damaged(clip, f"{len(found)} of {len(wanted)} frames from {wanted[0]} on")
    return np.stack(found)


def videos_of(folder: Path) -> list[Path]:
    """The video files of a folder, in order of their names.

    Raises:
        MalformedRecordError: If there are none, or two of one name.
    """
    place = folder / VIDEOS
    found = sorted(
        path
        for path in (place.iterdir() if place.is_dir() else ())
        if path.suffix.lower() in VIDEO_TYPES and not path.name.startswith(".")
    )
    if not found:
        raise MalformedRecordError(
            f"footage folder {folder.name}",
            "no videos",
            f"{VIDEOS}/NAME.mp4 (or {', '.join(VIDEO_TYPES[1:])}) in {str(folder)!r}",
            "Put the videos there, each with its caption in metas/NAME.txt.",
        )
    names = [path.stem for path in found]
    double = (
        sorted({name for name in names if names.count(name) > 1})
        if len(set(names)) < len(names)
        else []
    )
    if double:
        raise MalformedRecordError(
            f"footage folder {folder.name}",
            f"several videos named {double[0]!r}",
            "one video a name, because captions go by it",
            "Rename one of them.",
        )
    return found


def caption_of(folder: Path, name: str) -> str:
    """The caption of a clip; empty if it has none.

    Raises:
        MalformedRecordError: If its `.json` holds none.
    """
    text = folder / METAS / f"{name}.txt"
    if text.is_file():
        return _text_of(text).strip()
    record = folder / METAS / f"{name}.json"
    return _caption_in(record) if record.is_file() else ""


class _UnreadableVideoError(Exception):
    """Why one video cannot be read."""


@dataclass(frozen=True)
class _Listed:
    """A video whose caption is in a file of its own."""

    facts: FootageClip
    video: Path


_Frames = tuple[tuple[int, ...], int, float]


def _listed(folder: Path) -> Sequence[_Listed | ListedWindow]:
    """Clips and their files: those of `clips.jsonl` or of a JSONL list, or every video."""
    path = folder / CLIPS_NAME
    if not path.is_file():
        if listing := dataset_file(folder):
            return listed_windows(listing)
        return [_Listed(FootageClip(video.stem, video.stem), video) for video in videos_of(folder)]
    rows = [
        _facts(path, number, line)
        for number, line in enumerate(_text_of(path).splitlines(), start=1)
        if line.strip()
    ]
    if not rows:
        return []
    videos = {video.stem: video for video in videos_of(folder)}
    by_name = {row.name: row for row in rows}
    return [
        _Listed(row, videos.get(name, folder / VIDEOS / f"{name}.mp4"))
        for name, row in sorted(by_name.items())
    ]


def _facts(path: Path, number: int, line: str) -> FootageClip:
    """What a line says of a clip; the error quotes nothing of it, as it may tell of footage."""
    facts = None
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        record: Mapping[str, Any] = json.loads(line)
        known = {each.name for each in fields(FootageClip)}
        facts = FootageClip(**{key: str(record[key]) for key in known & record.keys()})
    if facts is None:
        raise MalformedRecordError(
            f"line {number} of {path.name} of {path.parent.name}",
            f"{len(line)} characters that are none",
            "a JSON object with name and recipe_id, and perhaps city and institution, a line",
            "Write it again, or remove it: a folder needs none.",
        )
    return facts


def _check_texts(folder: Path, names: Sequence[str]) -> None:
    """Refuse clips that have no words; one error names the first of them."""
    silent = [
        name
        for name in names
        if not (folder / PICKLES / f"{name}.pickle").is_file() and not caption_of(folder, name)
    ]
    if silent:
        raise MalformedRecordError(
            f"captions of {folder.name}",
            f"none for {len(silent)} video(s), first {silent[:3]}",
            f"{METAS}/{silent[0]}.txt, or {PICKLES}/{silent[0]}.pickle",
            "Write the captions; `worldloop embeddings --prompt` gives all videos one.",
        )


def _check_share(folder: Path, unreadable: Mapping[str, str], num_videos: int) -> None:
    if len(unreadable) <= max(1, int(MOST_UNREADABLE * num_videos)) and (
        len(unreadable) < num_videos or not num_videos
    ):
        return
    name, reason = next(iter(unreadable.items()))
    raise JobFailedError(
        f"{len(unreadable)} of {num_videos} videos in {str(folder / VIDEOS)!r} cannot be read; expected at most "
        f"{MOST_UNREADABLE:.0%}. First {name}: {reason}. Encode them again or remove them: "
        f"{', '.join(list(unreadable)[:5])}."
    )


def _looked_over(folder: Path, each: _Listed | ListedWindow, frames: _Frames) -> FolderClip:
    times, num_frames, rate_fps = frames
    if isinstance(each, ListedWindow):
        return FolderClip(
            each.facts, each.video, each.caption, None, num_frames, rate_fps, times,
            each.first_frame, each.last_frame + 1, each.interval,
        )  # fmt: skip
    pickle = folder / PICKLES / f"{each.facts.name}.pickle"
    caption = caption_of(folder, each.facts.name)
    found = pickle if pickle.is_file() else None
    return FolderClip(each.facts, each.video, caption, found, num_frames, rate_fps, times)


def _frames_in(video: Path) -> _Frames:
    """Times of the frames, how many there are and how many a second, from the file's packets."""
    try:
        with av.open(str(video)) as container:
            if not container.streams.video:
                raise _UnreadableVideoError("it has no video stream")
            stream = container.streams.video[0]
            promised = stream.frames
            rate_fps = float(stream.average_rate or 0)
            keeps_times = any(name in container.format.name for name in _KEEP_TIMES)
            packets = [packet for packet in container.demux(stream) if packet.size]
    except (av.FFmpegError, OSError) as error:
        raise _UnreadableVideoError(str(error)) from error
    if not packets or (promised and len(packets) < promised):
        raise _UnreadableVideoError(f"it has {len(packets)} of {promised or 'its'} frames")
    times = [packet.pts for packet in packets if not packet.is_discard]
    sure = keeps_times and None not in times and len(set(times)) == len(times)
    return tuple(sorted(times)) if sure else (), len(times), rate_fps


def _decoded_from(clip: FolderClip, first: int) -> Iterator[tuple[int, Any]]:
    """Frames with their numbers, from the key frame before `first` on."""
    numbers = {time: number for number, time in enumerate(clip.times)}
    with av.open(str(clip.video)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        if numbers and first:
            container.seek(clip.times[first], stream=stream)
        for count, frame in enumerate(container.decode(stream)):
            yield (numbers.get(frame.pts, -1) if numbers else count), frame


def _fitted(frame: Any, shape: ClipShape, rule: MediaRule) -> Frames:
    pixels: Frames = frame.to_ndarray(format="rgb24")
    fitted: Frames = fit_frames(pixels[None], shape, rule)[0]
    return fitted


def _damaged(clip: FolderClip, found: str) -> MalformedRecordError:
    return MalformedRecordError(
        f"video {clip.video.name}",
        found,
        f"the {clip.num_frames} frames that it says it has",
        "Encode it again, or remove it from the folder.",
    )


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise MalformedRecordError(
            f"{path.parent.name}/{path.name}", str(error)[:60], "UTF-8 text", "Save it as UTF-8."
        ) from error


def _caption_in(path: Path) -> str:
    """The caption of a JSON file: a string, an object with one of `_CAPTION_FIELDS`, or a structured caption."""
    try:
        found: Any = json.loads(_text_of(path))
    except ValueError:
        found = None
    if isinstance(found, dict) and not any(found.get(name) for name in _STRUCTURED_FIELDS):
        found = next((found[name] for name in _CAPTION_FIELDS if found.get(name)), None)
    if isinstance(found, dict) and found:
        return json.dumps(found, ensure_ascii=False)
    if isinstance(found, list) and found:
        found = found[0]
    if not isinstance(found, str) or not found.strip():
        raise MalformedRecordError(
            f"{METAS}/{path.name}",
            "no caption",
            f"a string, or an object with one of {_CAPTION_FIELDS}",
            "Write the caption as text into a .txt of the same name.",
        )
    caption: str = found.strip()
    return caption
