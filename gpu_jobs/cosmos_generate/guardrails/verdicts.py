"""What guards say."""

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Verdict:
    """What the text guards say of a prompt, or one guard of frames.

    Attributes:
        safe: Whether no guard objected.
        guard: The guard that did.
        category: What it saw, in `worldloop.cosmos.guards.CATEGORIES`.
        reason: In words, with the guard's own code.
        ran: Guards that looked, in order.
    """

    safe: bool
    guard: str = ""
    category: str = ""
    reason: str = ""
    ran: tuple[str, ...] = ()


@dataclass(frozen=True)
class FrameVerdict:
    """What the video guards say of a clip.

    Attributes:
        safe: Whether no guard objected.
        guard: The guard that did.
        category: What it saw.
        reason: In words.
        frames: RGB uint8 (T, H, W, 3), with faces pixelated; a copy where anything changed.
        num_faces: Pixelated boxes, summed over frames.
        ran: Guards that looked, in order.
    """

    safe: bool
    guard: str = ""
    category: str = ""
    reason: str = ""
    frames: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, 0, 0, 3), np.uint8))
    num_faces: int = 0
    ran: tuple[str, ...] = ()


class TextGuard(Protocol):
    """A guard of prompts. `check` raises if it cannot tell."""

    name: str
    parts: dict[str, Any]

    def check(self, prompt: str) -> Verdict:
        """What it says of a prompt."""


class ContentFilter(Protocol):
    """A guard that accepts or rejects frames."""

    name: str
    parts: dict[str, Any]

    def check(self, frames_THWC: NDArray[np.uint8]) -> Verdict:
        """What it says of a clip."""


class FaceFilter(Protocol):
    """A guard that changes frames."""

    name: str
    parts: dict[str, Any]

    def pixelate(self, frames_THWC: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], int]:
        """Frames with faces pixelated, and how many there were."""
