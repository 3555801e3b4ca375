"""Encoded footage as training and measuring read it; `encodings` makes it."""

from typing import Any, Protocol

Tensor = Any  # torch.Tensor


class Windows(Protocol):
    """Windows of footage with their captions, encoded for one base."""

    @property
    def num_clips(self) -> int:
        """Clips that windows come from."""

    @property
    def fingerprint(self) -> str:
        """Hash of clips, captions, window shape and encoders: equal footage, equal fingerprint."""

    @property
    def encode_s(self) -> float:
        """Seconds spent on what no cache had."""

    def __len__(self) -> int:
        """How many windows there are."""

    def clip(self, index: int) -> int:
        """Number of the clip that a window is of."""

    def latent(self, index: int) -> Tensor:
        """The window, float32 (C, T, H, W) on the CPU, as `Base.encode_frames` gives it."""

    def context(self, index: int) -> Tensor:
        """Its caption, (L, D) on the CPU, as `Base.encode_caption` gives it."""
