"""How busy a GPU is, sampled beside the work."""

import threading
from typing import Any, Self

EVERY_S = 0.2


class BusyMeter:
    """Samples the share of time in which a GPU runs kernels, while the block lasts.

    The driver's own figure (NVML "utilization.gpu"), sampled every `EVERY_S` seconds. Without a GPU
    or without `nvidia-ml-py` nothing is measured.
    """

    def __init__(self, device: Any) -> None:
        self._device = device
        self._samples: list[float] = []
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
        samples = list(self._samples)
        return round(sum(samples) / len(samples), 4) if samples else None

    def _sample(self) -> None:
        import torch

        while not self._stop.wait(EVERY_S):
            try:
                self._samples.append(torch.cuda.utilization(self._device) / 100.0)
            except (ModuleNotFoundError, RuntimeError):  # no NVML here: not measured
                return
