"""Batches on the device: while one is denoised, the one before is decoded and encoded beside it.

The main thread denoises. A second thread decodes latents on a CUDA stream of its own and hands the
frames to a small pool that guards and encodes them; at most two batches of latents and a few clips
wait there, so memory is bounded. Where the offload plan lets the decoder onto the device only when
the transformer has left it, decoding is done in between instead.

Memory that runs out is met in the main thread alone, with nothing else at work on the device: first
decoding leaves the side of denoising, then the offload plan grows, then decoding goes in chunks.
"""

import copy
import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from gpu_jobs.common.busy import BusyMeter
from gpu_jobs.common.staged_clips import is_full_disk
from gpu_jobs.cosmos_generate.book import Stopped, stopped_by
from gpu_jobs.cosmos_generate.measurements import Measured, Stopwatch, peak_gb
from gpu_jobs.cosmos_generate.out_of_memory import empty_cache, memory_error
from gpu_jobs.cosmos_generate.prepare import Prepared
from gpu_jobs.cosmos_generate.protocol import Decoded, DenoiseOptions, Embedding, WorldModel
from worldloop.cosmos.memory import OURS
from worldloop.errors import ClipRejectedError, JobFailedError, MalformedRecordError

MAX_WAITING = 2  # batches of latents between denoising and decoding
ENCODERS = 2  # threads that guard and encode
MAX_FRAMES_WAITING = 2 * ENCODERS  # decoded clips in host memory

Answer = TypeVar("Answer")

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
class Batch:
    """Clips that are denoised together.

    Attributes:
        works: The clips; those that are decoded already are left out when it comes back.
        latents: Of each.
        options: How they were denoised.
        measured: What that took, filled in when the device is through.
        watch: Marks at the start, after the first step and at the end.
        number: Of the batch in this job.
    """

    works: Sequence[Work]
    latents: Any
    options: DenoiseOptions
    measured: Measured
    watch: Stopwatch
    number: int

    def clock(self) -> None:
        """Wait for the device and read what denoising took."""
        self.watch.wait()
        measured = self.measured
        measured.denoise_s = self.watch.seconds(0, 2)
        others = measured.num_steps - 1
        if self.number == 1 and others:
            later_s = self.watch.seconds(1, 2) / others
            measured.warm_s = max(0.0, self.watch.seconds(0, 1) - later_s)
        words = {"event": "batch_denoised", "denoise_s": measured.denoise_s}
        log.debug(json.dumps(words | {"warm_s": measured.warm_s, "clips": measured.num_clips}))


@dataclass
class NoRoom:
    """A batch of which some clips could not be decoded for want of memory.

    Attributes:
        batch: What is left of it.
        error: What torch said.
    """

    batch: Batch
    error: RuntimeError


@dataclass
class Studio:
    """A loaded model with what it takes to make clips on one device.

    Attributes:
        world: The model.
        options: Of one batch; called anew for each, because a step policy serves one batch.
        residency: Moves parts on and off the device.
        device: torch device.
        finish: Called in a worker thread with a finished clip's work, frames and measurements; encodes
            and writes.
        guard: Called before it with the work and the frames; the frames as they may be seen, or None
            if the clip is stopped, which has been noted then.
        leads: Whether this process decodes and finishes; others only share the denoising.
        recoveries: What had to be tried again, in words.
    """

    world: WorldModel
    options: Callable[[], DenoiseOptions]
    residency: Any
    device: Any
    finish: Callable[[Work, Decoded, Measured], None] = lambda *_: None
    guard: Callable[[Work, Decoded], Decoded | None] = lambda _, decoded: decoded
    leads: bool = True
    recoveries: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Nothing waits and nothing is measured before the first batch."""
        self._busy = BusyMeter(self.device)
        self._beside = True
        self._num_begun = 0
        self._told_s = time.perf_counter()
        self._stopped: list[Stopped] = []
        self._fatal: list[BaseException] = []
        self._waiting: list[Future[NoRoom | None]] = []
        self._slots = threading.Semaphore(MAX_FRAMES_WAITING)

    @property
    def overlaps(self) -> bool:
        """Whether batches are decoded beside the denoising of the next."""
        return self._beside and bool(self.residency.overlaps)

    def run(self, batches: Iterable[Sequence[Work]]) -> list[Stopped]:
        """Denoise, decode and finish every batch.

        Returns:
            Clips that failed on the way.

        Raises:
            JobFailedError: If the device is lost, or memory does not suffice with everything offloaded.
            OSError: If the disk is full.
        """
        with (
            BusyMeter(self.device) as self._busy,
            _workers(
                ENCODERS, self.device, priority=-1
            ) as encoders,  # outlives the decoder that feeds it
            _workers(1, self.device) as decoder,
        ):
            for works in batches:
                self._wait(MAX_WAITING - 1, encoders)
                batch = self._denoise(works, encoders)
                if batch is None or not self.leads:
                    continue
                self._waiting.append(decoder.submit(self._decode, batch, encoders))
                if not self.overlaps:
                    self._wait(0, encoders)
            self._wait(0, encoders)
        self._raise_fatal()
        return self._stopped

    def make(self, work: Work, measured: Measured) -> Decoded:
        """One clip, denoised and decoded here and now; the parts of a long video are made so.

        Args:
            work: The clip.
            measured: What it takes is added here.

        Raises:
            ClipRejectedError: If the clip fails.
            JobFailedError: As `run`.
        """
        failed = len(self._stopped)
        batch = self._denoise([work], None)
        if batch is None:
            stop = self._stopped[failed]
            raise ClipRejectedError(stop.stage, stop.reason)
        batch.clock()
        part, start_s = batch.measured, time.perf_counter()
        decoded = self.with_room(
            "decode", lambda: self._decode_one(batch.latents[0], work, batch.options)
        )
        measured.denoise_s += part.denoise_s
        measured.warm_s += part.warm_s
        measured.num_steps += part.num_steps
        measured.num_forwards += part.num_forwards
        measured.decode_s += time.perf_counter() - start_s
        measured.peak_gpu_gb = max(measured.peak_gpu_gb, peak_gb(self.device))
        return decoded

    def complete(self, work: Work, decoded: Decoded, measured: Measured) -> None:
        """Guard and finish a clip here and now, as the long videos that `make` makes parts of."""
        if self.residency.guards_between:
            self.residency.enter("guard")
        seen = self.guard(work, decoded)
        if seen is not None:
            self.finish(work, seen, measured)

    def with_room(self, phase: str, compute: Callable[[], Answer]) -> Answer:
        """What is computed in a phase; with one more try for every larger offload plan.

        Call it while nothing else is at work on the device.

        Raises:
            JobFailedError: If the device is lost, or memory does not suffice with everything offloaded.
        """
        while True:
            try:
                self.residency.enter(phase)
                return compute()
            except RuntimeError as error:
                failure = memory_error(error)
            self._make_room(failure, phase)

    def _denoise(self, works: Sequence[Work], encoders: ThreadPoolExecutor | None) -> Batch | None:
        """A denoised batch; None, with its clips noted as stopped, if it was rejected."""
        while True:
            options, measured = self.options(), Measured(num_clips=len(works))
            try:
                latents, watch = self._loop(works, options, measured)
                return Batch(works, latents, options, measured, watch, self._num_begun)
            except (ClipRejectedError, MalformedRecordError) as error:
                for work in works:
                    self._stopped.append(stopped_by(work.prepared.request, "begin", error))
                return None
            except RuntimeError as error:
                failure = memory_error(error)
            crowded = any(not task.done() for task in self._waiting)
            self._wait(0, encoders)
            self._make_room(failure, "denoise", crowded=crowded)

    def _loop(
        self, works: Sequence[Work], options: DenoiseOptions, measured: Measured
    ) -> tuple[Any, Stopwatch]:
        """Latents of a batch, which the device may still be at work on, and the marks of that."""
        import torch

        watch = Stopwatch(self.device)
        self._num_begun += 1
        with torch.no_grad():
            self.residency.enter("begin")
            denoising = _with_own_autoencoder(self.world).begin(
                [work.prepared.request for work in works],
                [work.embedding for work in works],
                options,
                device=self.device,
                media=[work.prepared.media for work in works],
            )
            self.residency.enter("denoise")
            watch.mark()
            for index in range(denoising.num_steps):
                denoising.step(index)
                if index == 0:
                    watch.mark()
            latents = denoising.latents()
            watch.mark()
        measured.num_steps = denoising.num_steps
        measured.num_forwards = getattr(options.policy, "num_forwards", 2 * denoising.num_steps)
        return latents, watch

    def _decode(self, batch: Batch, encoders: ThreadPoolExecutor) -> NoRoom | None:
        """Decode a batch and hand its clips on; each clip fails alone.

        Returns:
            What is left of it when memory ran out.

        Raises:
            JobFailedError: If the device is lost.
        """
        try:
            batch.clock()
            self.residency.enter("decode")
        except RuntimeError as error:
            return NoRoom(batch, memory_error(error))
        between = bool(self.residency.guards_between)
        unseen: list[tuple[Work, Decoded, Measured]] = []
        no_room = None
        for index, work in enumerate(batch.works):
            start_s = time.perf_counter()
            try:
                decoded = self._decode_one(batch.latents[index], work, batch.options)
            except ClipRejectedError as error:
                self._stopped.append(stopped_by(work.prepared.request, error.stage, error))
                continue
            except RuntimeError as error:
                left = replace(batch, works=batch.works[index:], latents=batch.latents[index:])
                no_room = NoRoom(left, memory_error(error))
                break
            measured = self._measured(batch, start_s)
            words = {"event": "clip_decoded", "decode_s": measured.decode_s}
            log.debug(json.dumps(words | {"beside": measured.beside}))
            if between:
                unseen.append((work, decoded, measured))
                continue
            self._slots.acquire()  # frees itself in `_finish`
            encoders.submit(self._finish, work, decoded, measured)
        if unseen:
            self._see(unseen, encoders)
        return no_room

    def _see(
        self, unseen: Sequence[tuple[Work, Decoded, Measured]], encoders: ThreadPoolExecutor
    ) -> None:
        """Let the guards onto the device, which look at the clips of a batch, and hand these on."""
        self.residency.enter("guard")
        for work, decoded, measured in unseen:
            seen = self._guarded(work, decoded)
            if seen is not None:
                self._slots.acquire()  # frees itself in `_finish`
                encoders.submit(self._finish, work, seen, measured, is_seen=True)

    def _guarded(self, work: Work, decoded: Decoded) -> Decoded | None:
        try:
            return self.guard(work, decoded)
        except Exception as error:  # noqa: BLE001 - whatever fails here must not stop the others
            self._stopped.append(stopped_by(work.prepared.request, "guard", error))
            return None

    def _measured(self, batch: Batch, start_s: float) -> Measured:
        """What the clip took that is decoded now."""
        now_s, before_s = time.perf_counter(), self._told_s
        self._told_s = now_s
        return replace(
            batch.measured,
            decode_s=now_s - start_s,
            beside=self._num_begun > batch.number,
            peak_gpu_gb=peak_gb(self.device),
            busy_share=self._busy.between(before_s, now_s),
        )

    def _decode_one(self, latents: Any, work: Work, options: DenoiseOptions) -> Decoded:
        import torch

        with torch.no_grad():
            decoded = self.world.decode(latents, work.prepared.request, options)
        found, asked = len(decoded.frames), options.shape.num_frames
        if found != asked:
            raise ClipRejectedError(
                "decode", f"The clip has {found} frames and {asked} were asked for."
            )
        return decoded

    def _finish(
        self, work: Work, decoded: Decoded, measured: Measured, *, is_seen: bool = False
    ) -> None:
        """See a clip finished, in a worker thread; it fails alone."""
        try:
            seen = decoded if is_seen else self._guarded(work, decoded)
            if seen is not None:
                self.finish(work, seen, measured)
        except Exception as error:  # noqa: BLE001 - whatever fails here must not stop the others
            if is_full_disk(error):
                self._fatal.append(error)
            self._stopped.append(stopped_by(work.prepared.request, "encode", error))
        finally:
            self._slots.release()

    def _wait(self, most: int, encoders: ThreadPoolExecutor | None) -> None:
        """Wait until at most so many batches wait for their decoding; see to those that found no room."""
        while len(self._waiting) > most:
            left = self._waiting.pop(0).result()
            if left is None or encoders is None:
                continue
            others = [task.result() for task in self._waiting]  # parts move while nothing computes
            self._waiting.clear()
            crowded = self.overlaps and self._num_begun > left.batch.number
            self._make_room(left.error, "decode", crowded=crowded)
            for one in (left, *others):
                while one is not None:
                    one = self._decode(one.batch, encoders)
                    if one is not None:
                        self._make_room(one.error, "decode")
        self._raise_fatal()

    def _wait_for_finishing(self) -> None:
        """Wait until no guard looks at a clip, because its networks may leave the device now."""
        for _ in range(MAX_FRAMES_WAITING):
            self._slots.acquire()
        self._slots.release(MAX_FRAMES_WAITING)

    def _raise_fatal(self) -> None:
        if self._fatal:
            raise self._fatal[0]

    def _make_room(self, error: RuntimeError, phase: str, *, crowded: bool = False) -> None:
        """Go on with less on the device at once.

        Args:
            error: What torch said.
            phase: In which memory ran out.
            crowded: Whether a batch was decoded beside the denoising of another.
        """
        self._wait_for_finishing()
        words = ""
        if crowded and self.overlaps:
            self._beside = False
            words = "decoding between batches, not beside them"
        elif (plan := self.residency.grow(streams=phase != "decode")) is not None:
            words = f"{', '.join(plan)} offloaded"
        elif phase == "decode" and (num_frames := self._smaller_chunks()):
            words = f"decoding in chunks of {num_frames} latent frames"
        if not words:
            raise JobFailedError(
                f"The device has too little memory even with everything offloaded: {error}. Choose a "
                "smaller tier or model, or a larger GPU; `worldloop doctor` says what fits."
            ) from error
        empty_cache(self.device)
        words = f"out of memory ({phase}); went on with {words}"
        self.recoveries.append(words)
        log.warning(json.dumps({"event": "recovered", "how": words}))

    def _smaller_chunks(self) -> int:
        """Decode fewer latent frames at once than so far; 0 if that does not help."""
        vae = self.world.parts.get("tokenizer")
        if type(vae).__name__ != "AutoencoderKLCosmos":  # AutoencoderKLWan goes frame by frame
            return 0
        from gpu_jobs.cosmos_generate.vae_chunks import enable_chunks

        num_frames = int(getattr(vae, "latent_frames_per_chunk", 2 * OURS.chunk_frames)) // 2
        if num_frames:
            enable_chunks(vae, num_frames)
        return num_frames


def _with_own_autoencoder(world: WorldModel) -> WorldModel:
    """The model, whose autoencoder may encode while another thread decodes with the same weights.

    `AutoencoderKLWan` keeps on itself what its layers remember of the frames before.
    """
    if "tokenizer" not in world.parts:
        return world
    other = copy.copy(world)
    other.parts = {**world.parts, "tokenizer": copy.copy(world.parts["tokenizer"])}
    return other


def _workers(count: int, device: Any, *, priority: int = 0) -> ThreadPoolExecutor:
    """Threads with CUDA streams of their own, so that their work runs beside denoising.

    A lower number goes first: small kernels of guards do not wait behind a step of denoising.
    """
    return ThreadPoolExecutor(count, initializer=_take_stream, initargs=(device, priority))


def _take_stream(device: Any, priority: int) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.set_stream(torch.cuda.Stream(device, priority=priority))
