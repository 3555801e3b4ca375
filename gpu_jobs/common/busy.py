"""How busy a GPU is, sampled beside the work."""

import threading
import time
from typing import Any, Self

EVERY_S = 0.2


class BusyMeter:
    """Samples the share of time in which a GPU runs kernels, while the block lasts.

    The driver's own figure (NVML "utilization.gpu"), sampled every `EVERY_S` seconds. Without a GPU
    or without `nvidia-ml-py` nothing is measured.
    """

    def __init__(self, device: Any) -> None:
        self._device = device
        self._samples: list[tuple[float, float]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        if self._device.type == "cuda":
            self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def share(self) -> float | None:
        """Mean of the samples so far, 0 to 1; None without any."""
        return self.between(0.0, float("inf"))

    def between(self, start_s: float, stop_s: float) -> float | None:
        """Mean of the samples between two readings of `time.perf_counter`; None without any."""
        shares = [share for at_s, share in self.samples if start_s <= at_s <= stop_s]
        return round(sum(shares) / len(shares), 4) if shares else None

    @property
    def samples(self) -> list[tuple[float, float]]:
        """Readings of `time.perf_counter` and the shares at them."""
        return list(self._samples)

    def _sample(self) -> None:
        import torch

        while not self._stop.wait(EVERY_S):
            try:
                share = torch.cuda.utilization(self._device) / 100.0
            except (ModuleNotFoundError, RuntimeError):  # no NVML here: not measured
                return
            self._samples.append((time.perf_counter(), share))
