"""Batch files: many clips in one JSONL file, a JSON object a line, as the public scripts read them.

    {"prompt": "A tram turns into a wet street.", "visual_input": "first_frame.jpg"}

`prompt` is what to show, `visual_input` the picture or video to go on from. Other fields are left
alone. Empty lines are skipped; clips are named by their index, from 0.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldloop.errors import MalformedRecordError


@dataclass(frozen=True)
class BatchLine:
    """One clip of a batch file.

    Attributes:
        number: Line in the file, from 1.
        prompt: What to show; may be empty where an upsampler reads the picture.
        visual_input: Picture or video to go on from; empty for none.
    """

    number: int
    prompt: str = ""
    visual_input: str = ""


def read_batch(path: Path, *, needs_prompt: bool, needs_visual: bool) -> tuple[BatchLine, ...]:
    """Read a batch file.

    Args:
        path: JSONL file in UTF-8.
        needs_prompt: Whether each line must have a `prompt`, as it must with the upsampler off.
        needs_visual: Whether each line must have a `visual_input`, as Video2World must.

    Returns:
        One clip a line.

    Raises:
        MalformedRecordError: If the file cannot be read, holds no clip, or a line is not what it should be;
            names the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MalformedRecordError(
            "--batch_input_path", str(path), f"a JSONL file that can be read ({error})", "Check it."
        ) from error
    lines = tuple(
        _read_line(path, number, line, needs_prompt=needs_prompt, needs_visual=needs_visual)
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip()
    )
    if not lines:
        raise MalformedRecordError(
            "--batch_input_path", str(path), "one JSON object a line", "Add a clip."
        )
    return lines


def _read_line(
    path: Path, number: int, line: str, *, needs_prompt: bool, needs_visual: bool
) -> BatchLine:
    where = f"line {number} of {path.name}"
    try:
        record: Any = json.loads(line)
    except ValueError as error:
        raise MalformedRecordError(
            where, line[:60], f"one JSON object ({error})", "Correct the line."
        ) from error
    if not isinstance(record, dict):
        raise MalformedRecordError(
            where, record, "a JSON object", 'Write it like {"prompt": "..."}.'
        )
    found = BatchLine(
        number,
        _text(where, record, "prompt", needed=needs_prompt),
        _text(where, record, "visual_input", needed=needs_visual),
    )
    if not (found.prompt or found.visual_input):
        raise MalformedRecordError(
            where, sorted(record), "a `prompt` or a `visual_input`", "Correct the line."
        )
    return found


def _text(where: str, record: dict[str, Any], name: str, *, needed: bool) -> str:
    value = record.get(name, "")
    if not isinstance(value, str) or (needed and not value.strip()):
        raise MalformedRecordError(
            where,
            record.get(name),
            f"a text in the field `{name}`",
            "Add it to the line."
            if name == "visual_input"
            else "Add it to the line, or leave the prompt upsampler on.",
        )
    return value
