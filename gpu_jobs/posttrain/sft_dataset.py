"""Footage as Cosmos 3's published vision training lists it: a JSONL file beside the videos.

    video_dataset_file.jsonl, or train/video_dataset_file.jsonl
    videos/...               or wherever its `vision_path` points to, from the file's folder

A line is a video: `uuid`, `vision_path` and `t2w_windows`, each with `start_frame`, `end_frame` (both
of the video, the last one included), `temporal_interval` and a caption; what else it says (`duration`,
`width`, `height`) is read from the video itself. Every window is a clip of its own, as with
`sample_by_window` of the published loader (cosmos_framework/data/generator/local_datasets/
sft_dataset.py, NVIDIA/cosmos-framework, commit 5eee9ed; docs/dataset_jsonl.md beside it).

Not as there: videos are read from a folder, never from object stores; those over 61 seconds and
windows of fewer than 61 frames are taken if the plan's windows fit in; a window gives as many windows
of the plan's length as fit, not one of its own length; of captions in several styles the first one of
`CAPTION_FIELDS` is taken, not one at random.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_jobs.posttrain.spec import FootageClip
from worldloop.errors import MalformedRecordError

DATASET_FILES = ("video_dataset_file.jsonl", "train/video_dataset_file.jsonl")
STRUCTURED = "caption_json"
# the order of _select_caption and, behind it, CAPTION_TYPES_AND_WEIGHTS of the published loader by weight
CAPTION_FIELDS = (
    STRUCTURED,
    "qwen3_32b_rewrite-dense",
    "caption",
    *(
        f"{model}_{style}"
        for style in ("dense", "descriptive", "short")
        for model in ("qwen3_235b", "qwen3_32b", "qwen3p5_397b")
    ),
)
_NEEDED = {"uuid": str, "vision_path": str, "t2w_windows": list}
_SHAPE = "uuid, vision_path and t2w_windows with start_frame, end_frame and a caption"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ListedWindow:
    """A window of a video as the file lists it.

    Attributes:
        facts: Named `<uuid>_w<number>`.
        video: Its file.
        caption: In words or JSON, as the model is to read it.
        first_frame: Of the video.
        last_frame: Included.
        interval: Every so-manieth frame belongs to it.
    """

    facts: FootageClip
    video: Path
    caption: str
    first_frame: int
    last_frame: int
    interval: int


def dataset_file(folder: Path) -> Path | None:
    """The file that lists the videos of a folder; None if it has none."""
    return next((folder / name for name in DATASET_FILES if (folder / name).is_file()), None)


def listed_windows(path: Path) -> list[ListedWindow]:
    """The windows of all videos in order of their names; those without a caption are logged and left out.

    Args:
        path: The JSONL file.

    Raises:
        MalformedRecordError: If a line is no such record, a name comes twice, or no window has a caption.
    """
    found = [
        window
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if line.strip()
        for window in _windows(path, number, line)
    ]
    names = [window.facts.name for window in found]
    double = next((name for name in names if names.count(name) > 1), "") if _repeats(names) else ""
    if double or not found:
        raise MalformedRecordError(
            path.name,
            f"{double} twice" if double else "no window with a caption",
            "every uuid once, and a caption in each window",
            "Correct the file.",
        )
    return sorted(found, key=lambda window: window.facts.name)


def caption_of_window(window: Mapping[str, Any]) -> str:
    """A window's caption as the model is to read it; empty if it has none.

    JSON is written as the published loader writes it, prose ends with one full stop.

    Example:
        >>> caption_of_window({"caption": "A street. ", "caption_json": {"context": "Tōkyō"}})
        '{"context": "Tōkyō"}'
        >>> caption_of_window({"caption": "A street.. "})
        'A street.'
    """
    field = next((name for name in CAPTION_FIELDS if window.get(name)), "")
    said = window.get(field)
    if isinstance(said, dict):
        return json.dumps(said, ensure_ascii=False)
    if not isinstance(said, str) or not said.strip():
        return ""
    return said.strip() if field == STRUCTURED else f"{said.strip().rstrip('.')}."


def _windows(path: Path, number: int, line: str) -> Iterator[ListedWindow]:
    record = _record(path, number, line)
    video = _video(path, number, record["vision_path"])
    for index, window in enumerate(record["t2w_windows"]):
        name, caption = f"{record['uuid']}_w{index}", caption_of_window(window)
        if not caption:
            log.warning(json.dumps({"event": "window_left_out", "window": name}))
            continue
        place = {key: str(record.get(key, "")) for key in ("city", "institution")}
        yield ListedWindow(
            FootageClip(name, name, **place),
            video,
            caption,
            int(window["start_frame"]),
            int(window["end_frame"]),
            max(1, int(window.get("temporal_interval", 1))),
        )


def _record(path: Path, number: int, line: str) -> dict[str, Any]:
    """A line's record; the error names line and field and quotes nothing, as captions stand in the line."""
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    field, found = _fault(record)
    if found:
        where = f"{field} in " if field else ""
        raise MalformedRecordError(
            f"{where}line {number} of {path.name}", found, _SHAPE, "Correct it, or remove it."
        )
    right: dict[str, Any] = record
    return right


def _fault(record: Any) -> tuple[str, str]:
    """Which field of a record is odd, and what kind of thing it holds; nothing if none is."""
    if not isinstance(record, dict):
        return "", "no JSON object"
    for name, kind in _NEEDED.items():
        if not isinstance(record.get(name), kind):
            return name, type(record[name]).__name__ if name in record else "nothing"
    for index, window in enumerate(record["t2w_windows"]):
        if not _is_window(window):
            return f"t2w_windows, window {index}", "no first and last frame"
    return "", ""


def _is_window(window: Any) -> bool:
    try:
        int(window.get("temporal_interval", 1))
        return 0 <= int(window["start_frame"]) <= int(window["end_frame"])
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return False


def _video(path: Path, number: int, vision_path: str) -> Path:
    if "://" in vision_path:
        raise MalformedRecordError(
            f"vision_path in line {number} of {path.name}",
            "an address",  # which may be signed
            "a file, from the folder of the list",
            "Bring the videos into the folder: footage is read where it lies.",
        )
    return path.parent / vision_path


def _repeats(names: list[str]) -> bool:
    return len(set(names)) < len(names)
