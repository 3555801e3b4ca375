"""Batches on the device: while one is denoised, the one before is decoded and encoded beside it.

The main thread denoises. A second thread decodes latents on a CUDA stream of its own and hands the
frames to a small pool that guards and encodes them; at most two batches wait there, so memory is
bounded. Where the offload plan lets the decoder onto the device only when the transformer has left
it, decoding is done in between instead.
"""

import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from gpu_jobs.common.busy import BusyMeter
from gpu_jobs.cosmos_generate.book import Stopped, stopped_by
from gpu_jobs.cosmos_generate.prepare import Prepared
from gpu_jobs.cosmos_generate.protocol import Decoded, DenoiseOptions, Embedding, WorldModel
from worldloop.errors import ClipRejectedError, JobFailedError

MAX_WAITING = 2  # batches of latents between denoising and decoding
ENCODERS = 2  # threads that guard and encode

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """A clip on its way through the device.

    Attributes:
        prepared: What is made.
        embedding: Its encoded prompts.
    """

    prepared: Prepared
    embedding: Embedding


@dataclass
class Measured:
    """What a batch took.

    Attributes:
        denoise_s: Wall seconds of the denoising loop.
        decode_s: Wall seconds of decoding, of the whole batch.
        num_forwards: Passes of the transformer that were computed.
        num_steps: Denoising steps.
        peak_gpu_gb: Peak of allocated device memory; 0 on a CPU.
        busy_share: Share of the time since the last batch in which the device was at work; None if unknown.
    """

    denoise_s: float = 0.0
    decode_s: float = 0.0
    num_forwards: int = 0
    num_steps: int = 0
    peak_gpu_gb: float = 0.0
    busy_share: float | None = None


@dataclass
class Studio:
    """A loaded model with what it takes to make clips on one device.

    Attributes:
        world: The model.
        options: Of one batch; called anew for each, because a step policy serves one batch.
        residency: Moves parts on and off the device.
        device: torch device.
        finish: Called in a worker thread with a finished clip's work, frames and measurements; guards,
            encodes and writes.
        leads: Whether this process decodes and finishes; others only share the denoising.
        recoveries: What had to be tried again, in words.
    """

    world: WorldModel
    options: Callable[[], DenoiseOptions]
    residency: Any
    device: Any
    finish: Callable[[Work, Decoded, Measured], None]
    leads: bool = True
    recoveries: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Nothing is measured before the first batch."""
        self._busy = BusyMeter(self.device)

    def run(self, batches: Iterable[Sequence[Work]]) -> list[Stopped]:
        """Denoise, decode and finish every batch.

        Returns:
            Clips that failed on the way.

        Raises:
            JobFailedError: If the device is lost, or memory does not suffice with everything offloaded.
        """
        stopped: list[Stopped] = []
        with (
            BusyMeter(self.device) as self._busy,
            ThreadPoolExecutor(ENCODERS) as encoders,  # outlives the decoder that feeds it
            ThreadPoolExecutor(1) as decoder,
        ):
            waiting: list[Future[list[Stopped]]] = []
            for batch in batches:
                while len(waiting) >= MAX_WAITING:
                    stopped += waiting.pop(0).result()
                latents, options, measured, failed = self._denoise(batch)
                stopped += failed
                if latents is None or not self.leads:
                    continue
                task = decoder.submit(self._decode, batch, latents, options, measured, encoders)
                waiting.append(task)
                if not self.residency.overlaps:
                    stopped += waiting.pop(0).result()
            for task in waiting:
                stopped += task.result()
        return stopped

    def make(self, work: Work, measured: Measured) -> Decoded:
        """One clip, denoised and decoded here and now; the parts of a long video are made so.

        Args:
            work: The clip.
            measured: What it takes is added here.

        Raises:
            ClipRejectedError: If the clip fails.
            JobFailedError: As `run`.
        """
        latents, options, part, failed = self._denoise([work])
        if latents is None:
            raise ClipRejectedError(failed[0].stage, failed[0].reason)
        start_s = time.perf_counter()
        self.residency.enter("decode")
        decoded = self._decode_one(latents[0], work, options)
        measured.denoise_s += part.denoise_s
        measured.num_steps += part.num_steps
        measured.num_forwards += part.num_forwards
        measured.decode_s += time.perf_counter() - start_s
        measured.peak_gpu_gb = max(measured.peak_gpu_gb, _peak_gb(self.device))
        return decoded

    def _denoise(
        self, batch: Sequence[Work]
    ) -> tuple[Any, DenoiseOptions, Measured, list[Stopped]]:
        """Latents of a batch, with one more try for every larger offload plan."""
        while True:
            options, measured = self.options(), Measured()
            try:
                return self._loop(batch, options, measured), options, measured, []
            except ClipRejectedError as error:
                failed = [stopped_by(work.prepared.request, error.stage, error) for work in batch]
                return None, options, measured, failed
            except RuntimeError as error:
                self._recover(error)

    def _loop(self, batch: Sequence[Work], options: DenoiseOptions, measured: Measured) -> Any:
        import torch

        with torch.no_grad():
            self.residency.enter("begin")
            denoising = self.world.begin(
                [work.prepared.request for work in batch],
                [work.embedding for work in batch],
                options,
                device=self.device,
                media=[work.prepared.media for work in batch],
            )
            self.residency.enter("denoise")
            _synchronize(self.device)
            start_s = time.perf_counter()
            for index in range(denoising.num_steps):
                denoising.step(index)
            latents = denoising.latents()
            _synchronize(self.device)
        measured.denoise_s = time.perf_counter() - start_s
        measured.num_steps = denoising.num_steps
        measured.num_forwards = getattr(options.policy, "num_forwards", 2 * denoising.num_steps)
        return latents

    def _decode(
        self,
        batch: Sequence[Work],
        latents: Any,
        options: DenoiseOptions,
        measured: Measured,
        encoders: ThreadPoolExecutor,
    ) -> list[Stopped]:
        """Decode a batch and see its clips finished; each clip fails alone."""
        import torch

        stopped: list[Stopped] = []
        tasks: list[tuple[Work, Future[None]]] = []
        with torch.no_grad(), _stream(self.device):
            self.residency.enter("decode")
            for index, work in enumerate(batch):
                start_s = time.perf_counter()
                try:
                    decoded = self._decode_one(latents[index], work, options)
                except ClipRejectedError as error:
                    stopped.append(stopped_by(work.prepared.request, error.stage, error))
                    continue
                measured.decode_s += time.perf_counter() - start_s
                measured.peak_gpu_gb = _peak_gb(self.device)
                measured.busy_share = self._busy.share
                tasks.append((work, encoders.submit(self.finish, work, decoded, measured)))
        for work, task in tasks:
            failure = task.exception()
            if failure is not None:
                stopped.append(stopped_by(work.prepared.request, "encode", failure))
        return stopped

    def _decode_one(self, latents: Any, work: Work, options: DenoiseOptions) -> Decoded:
        while True:
            try:
                return self.world.decode(latents, work.prepared.request, options)
            except RuntimeError as error:
                self._recover(error)

    def _recover(self, error: RuntimeError) -> None:
        """Make room after an out-of-memory error; anything else ends the job in clear words."""
        import torch

        if isinstance(error, torch.OutOfMemoryError):
            plan = self.residency.grow()
            if plan is None:
                raise JobFailedError(
                    f"The device has too little memory even with everything offloaded: {error}. Choose a "
                    "smaller tier or model, or a larger GPU; `worldloop doctor` says what fits."
                ) from error
            words = f"out of memory; went on with {plan} offloaded"
            self.recoveries.append(words)
            log.warning(json.dumps({"event": "recovered", "how": words}))
            return
        if "CUDA" in str(error):
            raise JobFailedError(
                f"The GPU stopped answering: {error}. Finished clips are kept; run the partition again, on "
                "another GPU if this one stays lost."
            ) from error
        raise error


def _synchronize(device: Any) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def _peak_gb(device: Any) -> float:
    import torch

    if device.type != "cuda":
        return 0.0
    return float(torch.cuda.max_memory_allocated(device)) / 1e9


def _stream(device: Any) -> Any:
    """A CUDA stream of this thread's own, so that decoding runs beside denoising."""
    import contextlib

    import torch

    if device.type != "cuda":
        return contextlib.nullcontext()
    return torch.cuda.stream(torch.cuda.Stream(device))
