"""Training a site's footage into an adapter: the one function behind the job and the warm trainer."""

import errno
import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gpu_jobs.common.devices import claim_device
from gpu_jobs.common.processes import joined_processes
from gpu_jobs.cosmos_generate.out_of_memory import memory_error
from gpu_jobs.posttrain.base import Base, BaseKey, Bases, precision_of_weights
from gpu_jobs.posttrain.encodings import encoded
from gpu_jobs.posttrain.exports import export
from gpu_jobs.posttrain.footage import read_folder
from gpu_jobs.posttrain.fp8 import FP8, check_device
from gpu_jobs.posttrain.learner import Draws, Learner, norm_of, rate_of
from gpu_jobs.posttrain.lora import target_layers
from gpu_jobs.posttrain.parallel import Fleet
from gpu_jobs.posttrain.spec import PosttrainReport, PosttrainSpec
from gpu_jobs.posttrain.windows import Windows
from gpu_jobs.train_world_model.stages import Progress, StateFile
from worldloop.cosmos.families import ClipShape
from worldloop.errors import JobFailedError, MalformedRecordError
from worldloop.federation.adapters import (
    Arrays,
    adapter_bytes,
    adapter_sha256,
    check_alike,
    difference,
    initial_adapter,
    read_adapter,
)
from worldloop.federation.moments import untouched
from worldloop.federation.rounds import MODES, PRECISIONS, Training
from worldloop.seeds import content_id

__all__ = ["OnEvent", "Windows", "train", "training_of"]

log = logging.getLogger(__name__)

Tensor = Any
OnEvent = Callable[[Mapping[str, Any]], None]
"""Is called with what happens: `{"event": "step", "step": 20, "of": 100, "loss": 0.31}` and others."""

NUM_POINTS = 50
"""Points of a loss curve, at most; the loss is fetched, checked and saved with there."""
ADAPTER, DELTA, START, MOMENTS, REPORT = (
    "adapter.safetensors",
    "delta.safetensors",
    "start.safetensors",
    "moments.safetensors",
    "report.json",
)
_LATEST = "latest.txt"
_TELL_EVERY_S = 2.0
_FULL = (errno.ENOSPC, errno.EDQUOT)
_UNWRITTEN = "PytorchStreamWriter failed writing"  # what torch.save says of a full disk


def train(
    spec: PosttrainSpec, on_event: OnEvent | None = None, bases: Bases | None = None
) -> PosttrainReport:
    """Train one model on one folder of footage, from where a killed run stopped.

    Args:
        spec: What to train on what.
        on_event: Told of progress; may raise to stop; None: nobody is told.
        bases: Keeps models loaded between calls; None: one for this call.

    Raises:
        MalformedRecordError: If the spec, the footage or the start adapter do not fit the model.
        JobFailedError: If memory runs out, the loss stops being a number, or the state is of another training.
    """
    training = training_of(spec)
    with claim_device(spec.device) as device, joined_processes(device) as processes:
        _check_device(training, str(device), num_processes=processes.size)
        fleet = Fleet.started(processes.size, processes.rank, batch_size=training.batch_size)
        with _clear_words(spec, training):
            return _Run(
                spec, training, device, fleet, on_event or _log_event, bases or Bases()
            ).report()


def training_of(spec: PosttrainSpec) -> Training:
    """The training of a spec, checked.

    Raises:
        MalformedRecordError: If a field is unknown, or its value cannot be.
    """
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in spec.training.items()
    }
    try:
        shape = fields["shape"]
        fields["shape"] = shape if isinstance(shape, ClipShape) else ClipShape(**shape)
        training = Training(**fields)
    except (KeyError, TypeError) as error:
        raise MalformedRecordError(
            "training of a spec",
            str(error),
            "the fields of docs/formats.md#round-plan",
            "Plan it again, or correct the file.",
        ) from error
    rules = (
        ("mode", training.mode, training.mode in MODES, f"one of {MODES}"),
        (
            "precision",
            training.precision,
            training.precision in PRECISIONS,
            f"one of {PRECISIONS}",
        ),
        ("num_steps", training.num_steps, training.num_steps >= 1, "at least 1"),
        ("batch_size", training.batch_size, training.batch_size >= 1, "at least 1"),
        ("rank", training.rank, training.rank >= 1, "at least 1"),
        (
            "keep_optimizer",
            training.keep_optimizer,
            training.mode == "lora" or not (training.keep_optimizer or spec.start_moments),
            "false with all weights: the state is kept of an adapter alone",
        ),
        (
            "conditioning_frames",
            training.conditioning_frames,
            bool(training.conditioning_frames),
            "at least one count, (0,) for none",
        ),
    )
    for name, found, is_right, expected in rules:
        if not is_right:
            raise MalformedRecordError(f"{name} of a training", found, expected, "Correct it.")
    return training


def _check_device(training: Training, device: str, *, num_processes: int) -> None:
    """Refuse what only a GPU can do, and what Transformer Engine is not known to do.

    Raises:
        MalformedRecordError: Naming the field.
        MissingExtraError: If transformer_engine is needed and not installed.
    """
    if training.compile_blocks and device == "cpu":
        raise MalformedRecordError(
            "compile_blocks of a training",
            "true on a CPU",
            "a CUDA GPU; on a CPU compiling takes longer than it saves",
            "Turn it off.",
        )
    if training.precision != FP8:
        return
    if training.mode == "full" and num_processes > 1:
        raise MalformedRecordError(
            "precision of a training",
            f"'{FP8}' with all weights on {num_processes} processes",
            "an adapter, or one process: sharded weights were not tried in FP8",
            "Train with precision 'bf16'.",
        )
    check_device(device)


@dataclass
class _Run:
    """One training, from footage to files."""

    spec: PosttrainSpec
    training: Training
    device: str
    fleet: Fleet
    tell: OnEvent
    bases: Bases

    def report(self) -> PosttrainReport:
        started_s = time.monotonic()
        self._reset_peak()
        key = _base_key(self.spec, self.training, self.device)
        base = self.bases.get(key)
        load_s = base.load_s
        self.tell({"event": "loaded", "model": self.spec.model, "load_s": round(load_s, 1)})
        windows = self._windows(base)
        try:
            report = self._trained(base, windows) if len(windows) else _nothing(windows)
        except (RuntimeError, MemoryError):
            self.bases.drop(key)  # memory may have run out before the base was as it was
            raise
        if self.fleet.size > 1 and self.training.mode == "full":
            self.bases.drop(key)  # its weights are sharded now
        wall_s = time.monotonic() - started_s
        on_gpu = self.device != "cpu"
        report = replace(
            report,
            load_s=round(load_s, 2),
            wall_s=round(wall_s, 2),
            gpu_s=round(wall_s * self.fleet.size, 2) if on_gpu else 0.0,
            peak_gpu_gb=self._peak_gb(),
            versions=_versions(self.device),
        )
        if report.output_dir and self.fleet.leads:
            self._appear(Path(report.output_dir), report)
        return report

    def _windows(self, base: Base) -> Windows:
        spec = self.spec
        cache_dir = Path(spec.cache_dir or Path(spec.footage_dir) / "cache")
        clips = read_folder(
            Path(spec.footage_dir), spec.exclude_cities, max_clips=self.training.max_clips
        )
        windows = encoded(
            base, clips, self.training, cache_dir, revision=spec.revision, on_event=self.tell
        )
        self.fleet.wait()
        return windows

    def _trained(self, base: Base, windows: Windows) -> PosttrainReport:
        spec, training = self.spec, self.training
        start = self._start(base) if training.mode == "lora" else None
        moments = self._moments(start)
        draws = Draws(windows, training, spec.seed, spec.site, spec.shuffle_targets)
        # encoded before the text encoder leaves the GPU
        _ = base.dropped_caption(training.shape, negative=True)
        base.settle()
        learner = Learner(base, training, draws, start=start, moments=moments, fleet=self.fleet)
        try:
            fingerprint = self._fingerprint(windows, start, moments)
            progress, resumed_at = self._steps(learner, fingerprint)
            return self._written(learner, windows, progress, resumed_at)
        finally:
            learner.close()

    def _start(self, base: Base) -> Arrays:
        """The adapter to start from: a given one, or the one that the seed draws."""
        training = self.training
        layers = target_layers(
            base.transformer, training.targets, first_blocks=training.first_blocks
        )
        new = initial_adapter(self.spec.seed, layers, training.rank)
        if not self.spec.start_adapter:
            return new
        given = read_adapter(Path(self.spec.start_adapter))
        check_alike(given, new)
        return given

    def _moments(self, start: Arrays | None) -> Arrays | None:
        """Where the optimizer goes on from; None: it begins anew."""
        if start is None or not self.spec.start_moments:
            return None
        given = read_adapter(Path(self.spec.start_moments))
        check_alike(given, untouched(start))
        return given

    def _steps(self, learner: Learner, fingerprint: str) -> tuple[Progress, int]:
        """All steps that are left; where training stands, and where it was gone on from."""
        spec, training = self.spec, self.training
        rates = replace(training, warmup_steps=0) if spec.start_moments else training
        state = _State(Path(spec.state_dir or f"{spec.output_dir}.state"), fingerprint, self.fleet)
        progress = state.load(learner) or Progress()
        resumed_at, every = progress.total, _steps_a_point(training)
        started_s = saved_s = told_s = time.monotonic()
        before_s, waiting = progress.elapsed_s, []
        while progress.total < training.num_steps and not self._out_of_time(progress):
            number = progress.total
            waiting.append(learner.step(None, number, rate=rate_of(rates, number)))
            progress.total = number + 1
            progress.elapsed_s = before_s + time.monotonic() - started_s
            if time.monotonic() - told_s > _TELL_EVERY_S:  # who asked may be gone: this raises then
                told_s = time.monotonic()
                self._tell_standing(progress, waiting, lambda: state.save(learner, progress))
            if len(waiting) == every or progress.total == training.num_steps:
                self._note(progress, waiting)
                now_s = time.monotonic()
                if self.fleet.share(now_s - saved_s >= spec.checkpoint_every_s):
                    state.save(learner, progress)
                    saved_s = now_s
        self._note(progress, waiting)
        progress.elapsed_s = before_s + time.monotonic() - started_s
        if progress.total > resumed_at:
            state.save(learner, progress)
        return progress, resumed_at

    def _tell_standing(
        self, progress: Progress, waiting: list[Tensor], save: Callable[[], None]
    ) -> None:
        """Say where training stands; if nobody wants it any more, save what a later run goes on from."""
        try:
            self.tell({"event": "training", "step": progress.total, "of": self.training.num_steps})
        except KeyboardInterrupt:  # between two steps, so weights and number agree
            if self.fleet.size == 1:
                self._note(progress, waiting)
                save()
            raise

    def _out_of_time(self, progress: Progress) -> bool:
        if not self.spec.max_s:
            return False
        return self.fleet.share(progress.elapsed_s >= self.spec.max_s)

    def _note(self, progress: Progress, waiting: list[Tensor]) -> None:
        """Add a point to the curve and empty the list of losses."""
        import torch

        if not waiting:
            return
        loss = float(torch.stack(waiting).float().mean())
        waiting.clear()
        if not math.isfinite(loss):
            raise JobFailedError(
                f"The loss is not a number at step {progress.total} of {self.training.num_steps}; nothing was "
                f"written. Lower learning_rate ({self.training.learning_rate}), train with precision 'fp32', or "
                "start from another adapter."
            )
        progress.losses.append({"step": progress.total, "loss": round(loss, 6)})
        self.tell(
            {
                "event": "step",
                "step": progress.total,
                "of": self.training.num_steps,
                "loss": round(loss, 6),
            }
        )

    def _fingerprint(self, windows: Windows, start: Arrays | None, moments: Arrays | None) -> str:
        """Of all that decides the weights; a state of an older release goes on."""
        spec = self.spec
        training = json.loads(json.dumps(asdict(self.training)))
        del training["keep_optimizer"]  # decides what is written, no weight
        return content_id(
            {
                "model": spec.model,
                "revision": spec.revision,
                "transformer_dir": spec.transformer_dir,
                "training": training,
                "seed": spec.seed,
                "site": spec.site,
                "shuffle_targets": spec.shuffle_targets,
                "start": adapter_sha256(start) if start is not None else "",
                "footage": windows.fingerprint,
                "processes": self.fleet.size,
                **({"moments": adapter_sha256(moments)} if moments is not None else {}),
            }
        )

    def _written(
        self, learner: Learner, windows: Windows, progress: Progress, resumed_at: int
    ) -> PosttrainReport:
        """Write what was trained beside its place."""
        start, end = learner.started(), learner.finished()
        norm = self.fleet.share(norm_of(end, start))
        if not math.isfinite(norm):
            raise JobFailedError(
                f"Trained weights are not numbers after step {progress.total}; nothing was written. Lower "
                f"learning_rate ({self.training.learning_rate}), or train with precision 'fp32'."
            )
        folder, exports = Path(self.spec.output_dir), []
        if self.fleet.leads:
            self._write(folder, start, end, learner)
        if self.spec.export:
            last = learner.last() if self.training.averages else end
            if self.fleet.leads:
                exports = export(
                    self.spec.export, learner.base, self.training, last=last, averaged=end,
                    start=start, num_steps=progress.total,
                )  # fmt: skip
        self.fleet.wait()
        curve, steps = progress.losses, progress.total
        tokens, flops = _step_cost(learner, windows)
        trained_s = max(progress.elapsed_s, 1e-9)
        return PosttrainReport(
            output_dir=str(folder),
            num_clips=windows.num_clips,
            num_windows=len(windows),
            num_steps=steps,
            num_parameters=sum(each.size for each in end.values()),
            loss_before=_mean_loss(curve, 0, math.ceil(steps / 10)),
            loss_after=_mean_loss(curve, steps - math.ceil(steps / 10), steps),
            losses=[dict(point) for point in curve],
            norm=norm,
            tokens_per_s=round(tokens * steps / trained_s, 1),
            tflops=round(flops * steps / trained_s / 1e12, 6),
            load_s=0.0,
            encode_s=round(windows.encode_s, 2),
            train_s=round(progress.elapsed_s, 2),
            wall_s=0.0,
            gpu_s=0.0,
            peak_gpu_gb=0.0,
            resumed_at=resumed_at,
            start_sha256=adapter_sha256(start),
            exports=exports,
        )

    def _write(self, folder: Path, start: Arrays, end: Arrays, learner: Learner) -> None:
        """Write trained tensors beside the place of the output."""
        beside = _beside(folder)
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        name, arrays = (
            (ADAPTER, end) if self.training.mode == "lora" else (DELTA, difference(end, start))
        )
        (beside / name).write_bytes(adapter_bytes(arrays))
        if self.training.mode == "lora":
            (beside / START).write_bytes(adapter_bytes(start))
        if self.training.keep_optimizer:
            (beside / MOMENTS).write_bytes(adapter_bytes(learner.moments()))

    def _appear(self, folder: Path, report: PosttrainReport) -> None:
        """Put what was written in its place, with its report."""
        beside = _beside(folder)
        (beside / REPORT).write_text(json.dumps(asdict(report), indent=1))
        if folder.exists():
            shutil.rmtree(folder)
        beside.rename(folder)

    def _reset_peak(self) -> None:
        if self.device != "cpu":
            import torch

            torch.cuda.reset_peak_memory_stats(self.device)

    def _peak_gb(self) -> float:
        if self.device == "cpu":
            return 0.0
        import torch

        return round(float(torch.cuda.max_memory_allocated(self.device)) / 1e9, 3)


@dataclass(frozen=True)
class _State:
    """The saved state of a training: a folder a step with one file a process, and which one is whole."""

    folder: Path
    fingerprint: str
    fleet: Fleet

    def load(self, learner: Learner) -> Progress | None:
        """Put the latest state into the learner; None if there is none."""
        latest = self.folder / _LATEST
        if not latest.exists():
            return None
        return self._file(latest.read_text().strip()).load(learner)

    def save(self, learner: Learner, progress: Progress) -> None:
        """Write the state of all processes, then point to it, then remove what was before."""
        name = f"step-{progress.total:09d}"
        if self.fleet.leads or learner.training.mode == "full":
            self._file(name, mode=learner.training.mode).save(learner, progress)
        self.fleet.wait()
        if self.fleet.leads:
            part = self.folder / f"{_LATEST}.part"
            part.write_text(name)
            part.replace(self.folder / _LATEST)
            for other in self.folder.glob("step-*"):
                if other.name != name:
                    shutil.rmtree(other)
        self.fleet.wait()

    def _file(self, name: str, mode: str = "") -> StateFile:
        own = self.folder / name / f"rank{self.fleet.rank}.pt"
        shared = self.folder / name / "rank0.pt"
        path = own if mode == "full" or own.exists() else shared
        return StateFile(path, self.fingerprint, 0.0)


def _base_key(spec: PosttrainSpec, training: Training, device: str) -> BaseKey:
    full = training.mode == "full"
    return BaseKey(
        spec.model,
        spec.checkpoint_dir,
        spec.transformer_dir,
        # all weights are trained in float32, whatever the precision of the arithmetic
        precision="fp32" if full else precision_of_weights(training.precision),
        device=device,
    )


def _beside(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.partial")


def _steps_a_point(training: Training) -> int:
    return max(1, training.num_steps // NUM_POINTS)


def _mean_loss(curve: list[dict[str, Any]], after: int, until: int) -> float:
    """Mean of the points of some steps; a point stands for the steps since the one before."""
    total, count, before = 0.0, 0, 0
    for point in curve:
        inside = min(until, point["step"]) - max(after, before)
        if inside > 0:
            total, count = total + point["loss"] * inside, count + inside
        before = point["step"]
    return round(total / count, 6) if count else 0.0


def _step_cost(learner: Learner, windows: Windows) -> tuple[int, float]:
    """Tokens of a step, and operations of its forward and backward passes."""
    training, base = learner.training, learner.base
    cost = base.objective.step_cost(
        base.world, training.batch_size, windows.latent(0), windows.context(0)
    )
    trained = 3 * cost.once.total if training.mode == "full" else lora_flops(cost.once)
    return cost.tokens, trained + cost.beside


def lora_flops(once: Any) -> float:
    """Operations of forward and backward passes with an adapter, from those of one forward pass.

    Frozen weights need gradients of their inputs alone, which cost as much as the forward product;
    attention has gradients of both its factors. So linears count twice and attention three times. The
    factors themselves (under one percent at rank 8) and activations that are computed again are left out.

    Args:
        once: `worldloop.cosmos.flops.PassFlops` of a forward pass.
    """
    return float(2 * once.linears + 3 * (once.attention + once.text))


def _nothing(windows: Windows) -> PosttrainReport:
    """The report of a site without footage."""
    return PosttrainReport(
        output_dir="", num_clips=windows.num_clips, num_windows=0, num_steps=0, num_parameters=0,
        loss_before=0.0, loss_after=0.0, losses=[], norm=0.0, tokens_per_s=0.0, tflops=0.0,
        load_s=0.0, encode_s=round(windows.encode_s, 2), train_s=0.0, wall_s=0.0, gpu_s=0.0,
        peak_gpu_gb=0.0, resumed_at=0, start_sha256="",
    )  # fmt: skip


@contextmanager
def _clear_words(spec: PosttrainSpec, training: Training) -> Iterator[None]:
    """Memory or disk that ran out as one clear error."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise _disk_is_full(spec, str(error)) from error
    except (RuntimeError, MemoryError) as error:
        if _UNWRITTEN in str(error):
            raise _disk_is_full(spec, "torch could not write") from error
        ran_out = error if isinstance(error, MemoryError) else memory_error(error)
        words = (str(ran_out).splitlines() or [type(ran_out).__name__])[0]
        raise JobFailedError(
            f"Memory ran out ({words}) with batch_size={training.batch_size}, "
            f"checkpoint_blocks={training.checkpoint_blocks} and {training.shape.num_frames} frames of "
            f"{training.shape.width_px}x{training.shape.height_px}. Lower batch_size, set checkpoint_blocks, "
            "or train on smaller windows."
        ) from None


def _disk_is_full(spec: PosttrainSpec, words: str) -> JobFailedError:
    return JobFailedError(
        f"The disk is full ({words}) while training into {spec.output_dir!r}. Free some space and run it again: "
        "it goes on from its last saved state."
    )


def _log_event(event: Mapping[str, Any]) -> None:
    log.info(json.dumps(dict(event)))


def _versions(device: str) -> dict[str, str]:
    """Versions and hardware that the weights depend on."""
    import torch

    from gpu_jobs.common.torch_ops import import_diffusers

    return {
        "torch": torch.__version__,
        "diffusers": import_diffusers().__version__,
        "device": torch.cuda.get_device_name(device) if device != "cpu" else "cpu",
    }
