"""All guards of a job behind two calls: `check_prompt` and `check_frames`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_jobs.cosmos_generate.guardrails.verdicts import (
    ContentFilter,
    FaceFilter,
    FrameVerdict,
    TextGuard,
    Verdict,
)
from worldloop.cosmos.families import Family
from worldloop.cosmos.guards import (
    BLOCKLIST,
    CONTENT,
    FACES,
    INSTALL_HINT,
    STARTER_BLOCKLIST,
    check_policy,
    effective_state,
)
from worldloop.errors import ClipRejectedError, JobFailedError

GUARDRAIL_FOLDERS = (
    "Cosmos-1.0-Guardrail",
    "Cosmos-Guardrail1",
    "nvidia/Cosmos-1.0-Guardrail",
    "nvidia/Cosmos-Guardrail1",
)
_SUBFOLDERS = ("blocklist", "aegis", "video_content_safety_filter", "face_blur_filter")


@dataclass
class Guards:
    """The guards that were asked for, loaded; every one of them looks at every clip.

    Attributes:
        text: Guards of prompts, in order.
        content: Guards that accept or reject frames, in order.
        faces: Guards that change frames, in order.
    """

    text: Sequence[TextGuard] = ()
    content: Sequence[ContentFilter] = ()
    faces: Sequence[FaceFilter] = ()
    _parts: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    _names: tuple[str, ...] = field(default=(), init=False, repr=False)
    _released: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        """Collect names and networks."""
        every: list[TextGuard | ContentFilter | FaceFilter] = [
            *self.text,
            *self.content,
            *self.faces,
        ]
        self._names = tuple(guard.name for guard in every)
        for guard in every:
            self._parts |= {f"{guard.name}.{name}": part for name, part in guard.parts.items()}

    @property
    def effective(self) -> tuple[str, ...]:
        """Guards that have looked at a clip for which both checks came back.

        A guard that fails raises, so a clip that has a verdict was seen by every guard named here.
        """
        return self._names

    @property
    def state(self) -> str:
        """The effective state of a clip for which both checks came back, for its receipt."""
        return effective_state(self.effective)

    @property
    def parts(self) -> dict[str, Any]:
        """Networks by `<guard>.<part>`, for offloading; a guard runs where its networks are."""
        return self._parts

    def release_text(self) -> None:
        """Let the text guards go when every prompt has been checked; their memory is free then."""
        for guard in self.text:
            for name in guard.parts:
                self._parts.pop(f"{guard.name}.{name}", None)
        self.text, self._released = (), True

    def check_prompt(self, prompt: str) -> Verdict:
        """What the text guards say, up to the first that objects.

        Negative prompts are not for this: they name what is not wanted.

        Raises:
            ClipRejectedError: If the prompt is empty, or a guard fails; stage `guard`.
        """
        if self._released:
            raise ClipRejectedError("guard", "The text guards have been released already.")
        if self.text and not prompt.strip():
            raise ClipRejectedError(
                "guard",
                "The prompt is empty, there is nothing to look at. Check the prompt that the "
                "upsampler wrote, or give one.",
            )
        ran: list[str] = []
        for guard in self.text:
            verdict = _never_silent(guard.name, guard.check, prompt)
            ran.append(guard.name)
            if not verdict.safe:
                return Verdict(False, guard.name, verdict.category, verdict.reason, tuple(ran))
        return Verdict(True, ran=tuple(ran))

    def check_frames(self, frames_THWC: NDArray[np.uint8]) -> FrameVerdict:
        """What the video guards say; frames come back with faces pixelated.

        Args:
            frames_THWC: RGB uint8 (T, H, W, 3).

        Raises:
            ClipRejectedError: If a guard fails; stage `guard`.
        """
        if self.content or self.faces:
            _check_shape(frames_THWC)
        ran: list[str] = []
        for guard in self.content:
            verdict = _never_silent(guard.name, guard.check, frames_THWC)
            ran.append(guard.name)
            if not verdict.safe:
                return FrameVerdict(
                    False, guard.name, verdict.category, verdict.reason, frames_THWC, 0, tuple(ran)
                )
        num_faces = 0
        for face_filter in self.faces:
            frames_THWC, found = _never_silent(face_filter.name, face_filter.pixelate, frames_THWC)
            ran.append(face_filter.name)
            num_faces += found
        return FrameVerdict(True, frames=frames_THWC, num_faces=num_faces, ran=tuple(ran))


def load_guards(
    guards: Mapping[str, Any], *, family: Family, tiny: bool = False, device: Any = "cpu"
) -> Guards:
    """Load the guards of a job.

    Args:
        guards: `{"text": [names], "video": [names], "dir": str}`; `dir` is the published guardrail
            folder, or the folder of all models in which it stands.
        family: Family of the model, for its policy.
        tiny: Whether the model is a small random one.
        device: Where the networks go.

    Raises:
        MalformedRecordError: If the family does not allow these guards.
        JobFailedError: If a guard is not installed, or its files are not what it needs.
    """
    text, video = check_policy(family, guards, tiny=tiny)
    folder = guardrail_folder(Path(guards.get("dir", "")))
    loaded = Guards(
        text=[_load_text_guard(name, folder, device) for name in text],
        content=[_load_content(folder, device) for name in video if name == CONTENT],
        faces=[_load_faces(folder, device) for name in video if name == FACES],
    )
    return loaded


def guardrail_folder(folder: Path) -> Path:
    """The published guardrail folder: the given one, or the one in it.

    Example:
        >>> guardrail_folder(Path("nowhere")).as_posix()
        'nowhere'
    """
    if any((folder / name).is_dir() for name in _SUBFOLDERS):
        return folder
    inside = [folder / name for name in GUARDRAIL_FOLDERS if (folder / name).is_dir()]
    return inside[0] if inside else folder


def _load_text_guard(name: str, folder: Path, device: Any) -> TextGuard:
    from gpu_jobs.cosmos_generate.guardrails.blocklist import Blocklist

    if name == STARTER_BLOCKLIST:
        return Blocklist.starter()
    if name == BLOCKLIST:
        return Blocklist.load(folder / "blocklist")
    from gpu_jobs.cosmos_generate.guardrails.llm import LlmGuard

    return LlmGuard.load(name, folder, device=device)


def _load_content(folder: Path, device: Any) -> ContentFilter:
    from gpu_jobs.cosmos_generate.guardrails.content import VideoContentFilter

    return VideoContentFilter.load(folder / "video_content_safety_filter", device=device)


def _load_faces(folder: Path, device: Any) -> FaceFilter:
    from gpu_jobs.cosmos_generate.guardrails.faces import FacePixelation

    return FacePixelation.load(folder / "face_blur_filter", device=device)


def _never_silent(name: str, check: Any, subject: Any) -> Any:
    """Run a guard; if it fails, the clip stops."""
    try:
        return check(subject)
    except Exception as error:
        raise ClipRejectedError(
            "guard",
            f"The guard {name!r} failed, so nothing passes: {type(error).__name__}: {error}",
        ) from error


def _check_shape(frames_THWC: NDArray[np.uint8]) -> None:
    if frames_THWC.ndim != 4 or frames_THWC.shape[-1] != 3 or frames_THWC.dtype != np.uint8:
        raise ClipRejectedError(
            "guard",
            f"Frames are {frames_THWC.dtype} {frames_THWC.shape}; guards need uint8 (T, H, W, 3).",
        )
    if not len(frames_THWC):
        raise ClipRejectedError("guard", "The clip has no frames, there is nothing to look at.")


def not_installed(guard: str, path: Path, needs: str) -> JobFailedError:
    """The error of a guard whose files are not there.

    Args:
        guard: Its name.
        path: What is missing.
        needs: What should be there, in words.
    """
    return JobFailedError(
        f"The guard {guard!r} is asked for and not installed: {str(path)!r} is not there; it needs "
        f"{needs}. {INSTALL_HINT}"
    )
