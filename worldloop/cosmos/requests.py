"""Requests: what one generated clip is asked to be, checked before any GPU is touched."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from worldloop.errors import MalformedRecordError

ControlKind = Literal["edge", "blur", "depth", "seg", "vis"]
ActionMode = Literal["forward_dynamics", "inverse_dynamics", "policy"]


@dataclass(frozen=True)
class Conditioning:
    """Frames that a clip goes on from.

    Attributes:
        path: Local picture or video.
        num_frames: How many of its frames condition, one of the family's `conditioning_frames`.
    """

    path: str
    num_frames: int = 1


@dataclass(frozen=True)
class Control:
    """A control input of a clip.

    Attributes:
        kind: What the video shows.
        path: Local video; empty computes it from the conditioning video (edge and blur only).
        weight: `control_weight` of the model; 1 is its default.
        model_dir: Folder of the control model; empty takes the registered one.
    """

    kind: ControlKind
    path: str = ""
    weight: float = 1.0
    model_dir: str = ""


@dataclass(frozen=True)
class ActionTrack:
    """Actions or a camera track that a clip follows, or that are asked of it.

    Attributes:
        mode: What is asked.
        path: Local JSON file: `{"domain": str, "rate_fps": float, "actions": [[...], ...]}`; empty for modes that answer actions.
        domain: Embodiment, e.g. `camera_pose`.
        chunk_size: Actions a chunk; the clip has one frame more.
    """

    mode: ActionMode
    path: str = ""
    domain: str = "camera_pose"
    chunk_size: int = 16


@dataclass(frozen=True)
class ClipRequest:
    """One clip of a batch.

    Attributes:
        clip_id: Names its files; the recipe id in the graph, NAME on the command line.
        prompt: As the user or the atlas wrote it; may be empty only where the upsampler reads a picture.
        negative_prompt: None takes the family's.
        seed: Of the initial noise.
        conditioning: Frames to go on from, or None.
        controls: Control inputs, in the order of the model.
        action: Action or camera track (Cosmos 3), or None.
        subject_name: Subject of a post-trained model; the prompt becomes "A video of sks {subject_name}. {prompt}".
        sound: Whether a sound track is asked for (Cosmos 3).
        scene_id: Scene that the prompt describes; empty outside the graph.
        sketch_recipe_id: Procedural clip of the same scene that gives control or first frames; empty if none.
    """

    clip_id: str
    prompt: str = ""
    negative_prompt: str | None = None
    seed: int = 1
    conditioning: Conditioning | None = None
    controls: tuple[Control, ...] = ()
    action: ActionTrack | None = None
    subject_name: str = ""
    sound: bool = False
    scene_id: str = ""
    sketch_recipe_id: str = ""

    def to_record(self) -> dict[str, Any]:
        """The JSON record."""
        record = asdict(self)
        return {**record, "controls": [asdict(control) for control in self.controls]}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read a record back.

        Raises:
            MalformedRecordError: If a field is missing or unknown.
        """
        try:
            conditioning, action = record.get("conditioning"), record.get("action")
            return cls(
                **{
                    **record,
                    "conditioning": Conditioning(**conditioning) if conditioning else None,
                    "controls": tuple(Control(**c) for c in record.get("controls", ())),
                    "action": ActionTrack(**action) if action else None,
                }
            )
        except TypeError as error:
            raise MalformedRecordError(
                "clip request", str(error), "the fields of worldloop.cosmos.requests", "Correct it."
            ) from error

    @property
    def full_prompt(self) -> str:
        """The prompt with the subject of a post-trained model.

        Example:
            >>> ClipRequest("a", "It waves.", subject_name="teal robot").full_prompt
            'A video of sks teal robot. It waves.'
        """
        if not self.subject_name:
            return self.prompt
        return f"A video of sks {self.subject_name}. {self.prompt}"


def is_structured(prompt: str) -> bool:
    """Whether a prompt is a JSON object, the form that Cosmos 3 reads best.

    Example:
        >>> is_structured('{"subjects": []}'), is_structured("A street.")
        (True, False)
    """
    if not prompt.lstrip().startswith("{"):
        return False
    try:
        return isinstance(json.loads(prompt), dict)
    except ValueError:
        return False
