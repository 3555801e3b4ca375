"""Measurements of a clip on the device: seconds, passes and memory, without making the device wait."""

import time
from dataclasses import dataclass
from typing import Any


@dataclass
class Measured:
    """What a clip took, and the batch that it was denoised in.

    Attributes:
        denoise_s: Seconds of denoising the batch, on the device.
        warm_s: Of these, what the first step of a job took beyond the others: kernels are compiled in it.
        decode_s: Wall seconds of decoding the clip.
        beside: Whether the next batch was on the device meanwhile, whose seconds count these already.
        num_clips: Clips of the batch.
        num_forwards: Passes of the transformer that were computed.
        num_steps: Denoising steps.
        peak_gpu_gb: Peak of allocated device memory; 0 on a CPU.
        busy_share: Share of the time since the clip before in which the device was at work; None if unknown.
    """

    denoise_s: float = 0.0
    warm_s: float = 0.0
    decode_s: float = 0.0
    beside: bool = False
    num_clips: int = 1
    num_forwards: int = 0
    num_steps: int = 0
    peak_gpu_gb: float = 0.0
    busy_share: float | None = None

    @property
    def step_s(self) -> float:
        """Seconds of a step of the batch, without warming up."""
        return (self.denoise_s - self.warm_s) / max(self.num_steps, 1)

    @property
    def gpu_s(self) -> float:
        """Seconds of the device that the clip took: its share of the batch, and its decoding."""
        return self.denoise_s / self.num_clips + (0.0 if self.beside else self.decode_s)


class Stopwatch:
    """Marks in the work of a device; nothing waits for them until they are read."""

    def __init__(self, device: Any) -> None:
        """Nothing is marked yet.

        Args:
            device: torch device; marks go into the current stream of a GPU.
        """
        self._device = device
        self._marks: list[Any] = []

    def mark(self) -> None:
        """What the device was given so far lies before this mark, what follows behind it."""
        if self._device.type != "cuda":
            self._marks.append(time.perf_counter())
            return
        import torch

        event = torch.cuda.Event(enable_timing=True, blocking=True)
        event.record(torch.cuda.current_stream(self._device))
        self._marks.append(event)

    def wait(self) -> None:
        """Wait until the device has come to the last mark."""
        if self._device.type == "cuda":
            self._marks[-1].synchronize()

    def seconds(self, start: int, stop: int) -> float:
        """Between two marks by number; wait first."""
        first, last = self._marks[start], self._marks[stop]
        if self._device.type != "cuda":
            return float(last - first)
        return float(first.elapsed_time(last)) / 1e3


def peak_gb(device: Any) -> float:
    """Peak of allocated device memory; 0 on a CPU."""
    import torch

    if device.type != "cuda":
        return 0.0
    return float(torch.cuda.max_memory_allocated(device)) / 1e9
