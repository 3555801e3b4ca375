"""What the job itself costs on this GPU: real architectures with random weights, real clips.

Run `python -m gpu_jobs.cosmos_generate.bench_job OUT.jsonl FOLDER CASE...`, a case being a name of
`CASES`, changed as in `draft:clips=8,steps=4`. Each case runs `cosmos_generate` in a process of its
own, as `worldloop` does, over a checkpoint folder that is written on the first use of a model:
transformer and video autoencoder have the real dimensions, the text encoder is a T5 of the real
width with two layers, because the weights of a T5-11B say nothing that is measured here. Guards are
small and random where a family must have them; upsamplers do not run. Frames are noise, which is the hardest there is to encode.

`busy` is what the driver says (NVML); `traced` takes the kernels' own times from the profiler.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gpu_jobs.cosmos_generate.spec import AUTO, CosmosGenerateSpec
from worldloop.cosmos.families import ClipShape
from worldloop.cosmos.models import Model, model
from worldloop.cosmos.profiles import profile
from worldloop.seeds import stream

PREDICT2 = "Cosmos-Predict2-2B-Video2World"
COSMOS1 = "Cosmos-1.0-Diffusion-7B-Text2World"
T5_LAYERS = 2
TIMEOUT_S = 400


@dataclass(frozen=True)
class Case:
    """A run of the job.

    Attributes:
        model: Name in `MODELS`.
        shape: Of every clip.
        profile: Name of a speed profile.
        steps: Denoising steps; fewer than a clip needs where only the time of a step is wanted.
        clips: How many.
        batch_size: Clips denoised together.
        cap_gb: Memory that the job may take; 0 is all of it.
        offload: `auto`, or what leaves the GPU, joined by `+`; empty: nothing.
        kill_after: Finished clips after which the job is killed and started again; 0: never.
        traced: `kernels` lets the profiler look on, `syncs` counts what makes the host wait.
        sampler: Empty takes the model's first.
    """

    model: str
    shape: ClipShape
    profile: str = "fast"
    steps: int = 35
    clips: int = 4
    batch_size: int = 1
    cap_gb: float = 0.0
    offload: str = AUTO
    kill_after: int = 0
    traced: str = ""
    sampler: str = ""


_STANDARD = Case(PREDICT2, ClipShape(93, 768, 432, 16), steps=8, clips=5)
_DRAFT = Case(PREDICT2, ClipShape(61, 320, 192, 16), clips=24, batch_size=8)
_HERO = Case(
    COSMOS1, ClipShape(121, 1280, 704, 24), profile="exact", steps=2, clips=2, sampler="edm_euler"
)
_TINY = Case("Tiny-Cosmos-Predict2-Video2World", ClipShape(9, 64, 64, 16), "exact", 2, 3)
CASES = {
    "tiny": _TINY,
    "tiny_killed": replace(_TINY, steps=8, clips=4, kill_after=1),
    "standard": _STANDARD,
    "standard_cached": replace(_STANDARD, profile="cached", steps=12),
    "draft": _DRAFT,
    "draft_traced": replace(_DRAFT, clips=16, steps=4, traced="kernels"),
    "draft_syncs": replace(_DRAFT, clips=4, batch_size=2, steps=3, traced="syncs"),
    "draft_killed": replace(_DRAFT, clips=6, batch_size=1, steps=6, kill_after=2),
    "draft_short_of_memory": replace(
        _DRAFT, profile="exact", clips=2, batch_size=1, steps=2, cap_gb=4.7, offload=""
    ),
    "draft_streamed": replace(
        _DRAFT, profile="exact", clips=1, batch_size=1, steps=2, cap_gb=2.5, offload=""
    ),
    "hero": replace(_HERO, profile="fast"),
    "hero_24gb": replace(_HERO, cap_gb=24.0),
    "hero_40gb": replace(_HERO, cap_gb=40.0),
    "hero_short_of_memory": replace(_HERO, clips=1, cap_gb=24.0, offload=""),
}


def main() -> None:
    """Run cases and write a line for each; or be the process of one."""
    if sys.argv[1] == "child":
        run_child(Path(sys.argv[2]), Path(sys.argv[3]), traced=sys.argv[4])
        return
    out, folder, cases = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    for words in cases:
        name, case = case_of(words)
        row = {"case": words, **asdict(case), **measure(case, folder / name, folder / "models")}
        with out.open("a") as lines:
            lines.write(json.dumps(row) + "\n")
        sys.stdout.write("\n".join(_short(row)) + "\n\n")
        sys.stdout.flush()


def case_of(words: str) -> tuple[str, Case]:
    """A case by name, changed as asked.

    Example:
        >>> case_of("draft:clips=8")[1].clips
        8
    """
    name, _, changes = words.partition(":")
    case = CASES[name]
    for change in filter(None, changes.split(",")):
        key, _, value = change.partition("=")
        case = replace(case, **{key: type(getattr(case, key))(value)})
    return name, case


def measure(case: Case, folder: Path, checkpoints: Path) -> dict[str, Any]:
    """Run a case and say what it took; seconds, GB and shares."""
    start_s = time.time()
    write_checkpoint(model(case.model), checkpoints)
    written_s = time.time() - start_s
    folder.mkdir(parents=True, exist_ok=True)
    spec = folder / "spec.json"
    spec.write_text(json.dumps(asdict(spec_of(case, folder, checkpoints))))
    facts: dict[str, Any] = {"checkpoint_s": written_s}
    if case.kill_after:
        facts |= _kill(case, spec, folder)
    lines = folder / "lines.jsonl"
    lines.unlink(missing_ok=True)
    start_s = time.time()
    done = subprocess.run(
        [sys.executable, "-m", __spec__.name, "child", spec, lines, case.traced or "no"],
        stdout=subprocess.PIPE,
        stderr=(folder / "stderr.txt").open("w"),
        timeout=TIMEOUT_S,
        check=False,
    )
    facts |= {"status": done.returncode, "job_s": time.time() - start_s}
    if done.returncode:
        return facts | {"error": (folder / "stderr.txt").read_text()[-1500:]}
    told = [json.loads(line) for line in lines.read_text().splitlines()]
    return facts | summary(case, told, start_s=start_s)


def spec_of(case: Case, folder: Path, checkpoints: Path) -> CosmosGenerateSpec:
    """What the job is asked."""
    known = model(case.model)
    more: dict[str, Any] = {}
    if "video2world" in known.all_tasks:
        picture = folder / "first.png"
        pixels = stream("bench", "picture").integers(0, 256, (96, 160, 3), np.uint8)
        Image.fromarray(pixels).resize((case.shape.width_px, case.shape.height_px)).save(picture)
        more = {"conditioning": {"path": str(picture), "num_frames": 1}}
    return CosmosGenerateSpec(
        model=known.name,
        revision="random",
        checkpoint_dir=str(checkpoints),
        requests=tuple(
            {"clip_id": f"clip{i}", "prompt": f"A quiet street, number {i}.", "seed": i, **more}
            for i in range(case.clips)
        ),
        shape=asdict(case.shape),
        num_steps=case.steps,
        guidance=known.default_guidance,
        sampler=case.sampler or known.known_samplers[0],
        profile=profile(case.profile).to_record(),
        staging_dir=str(folder / "staging"),
        pack_path=str(folder / "pack.tar"),
        offload=case.offload if case.offload == AUTO else _parts(case.offload),
        batch_size=case.batch_size,
        memory_cap_gb=case.cap_gb,
        guards=_guards(known, checkpoints),
    )


def summary(case: Case, told: Sequence[dict[str, Any]], *, start_s: float) -> dict[str, Any]:
    """What a run's lines say."""
    batches = _events(told, "batch_denoised")
    decoded, done = _events(told, "clip_decoded"), _events(told, "clip_done")
    end = _events(told, "end")[0]
    facts: dict[str, Any] = {
        "clips_done": len(done),
        "resumed": end["resumed"],
        "failures": end["failures"],
        "recoveries": end["recoveries"],
        "plan": [line["plan"] for line in _events(told, "offload_plan")],
        "peak_allocated_gb": end["peak_allocated_gb"],
        "peak_reserved_gb": end["peak_reserved_gb"],
        "ms_per_step": [line["ms_per_step"] for line in done],
        "tflops": [line["tflops"] for line in done],
        "gpu_s": [line["gpu_s"] for line in done],
        "busy_by_clip": [line["busy_share"] for line in done],
        "syncs": end["syncs"],
    }
    if not batches:
        return facts
    warm_s = batches[0]["warm_s"]
    begun_s = batches[0]["at_s"] - batches[0]["denoise_s"]
    last_s, computed_s = done[-1]["at_s"], max(line["at_s"] for line in decoded)
    wall_s = last_s - begun_s - warm_s
    frames = len(done) * case.shape.num_frames
    windows = {
        "first_step_to_last_clip": (begun_s + warm_s, last_s),
        "first_step_to_last_decode": (begun_s + warm_s, computed_s),
        "first_clip_to_last_clip": (done[0]["at_s"], last_s),
    }
    return facts | {
        "setup_s": begun_s - start_s,
        "warm_s": warm_s,
        "wall_s": wall_s,
        "sum_denoise_s": sum(line["denoise_s"] for line in batches) - warm_s,
        "sum_decode_s": sum(line["decode_s"] for line in decoded),
        "sum_encode_cpu_s": sum(line["cpu_s"] for line in done),
        "after_last_decode_s": last_s - computed_s,
        "frames_per_s": frames / wall_s,
        "frames_per_s_with_warming_up": frames / (wall_s + warm_s),
        "frames_per_s_of_the_process": frames / (last_s - start_s),
        "busy_nvml": {key: _mean_busy(end["busy"], *span) for key, span in windows.items()},
        "busy_kernels": {key: _union_share(end["kernels"], *span) for key, span in windows.items()},
    }


def write_checkpoint(record: Model, checkpoints: Path) -> None:
    """Write a model with random weights as a diffusers folder, unless it is there.

    Args:
        record: Cosmos-1.0 or Predict2; a tiny one is written as the job would write it.
        checkpoints: Folder of model folders.
    """
    from gpu_jobs.cosmos_generate.tiny import write_tiny_checkpoint

    folder = checkpoints / record.name
    if record.tiny or (folder / "model_index.json").exists():
        if record.tiny:
            write_tiny_checkpoint(record.name, checkpoints)
        return
    import torch

    from gpu_jobs.cosmos_generate.bench_models import transformer_of, vae_of
    from gpu_jobs.cosmos_generate.tiny.folders import write_index

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    transformer_of(record, device).save_pretrained(folder / "transformer", max_shard_size="40GB")
    vae_of(record, device).save_pretrained(folder / "vae")
    _write_t5(folder)
    if record.family == "cosmos1":
        pipeline, scheduler = "CosmosTextToWorldPipeline", "EDMEulerScheduler"
    else:
        pipeline, scheduler = "Cosmos2VideoToWorldPipeline", "FlowMatchEulerDiscreteScheduler"
    write_index(folder, pipeline, {"scheduler": ("diffusers", scheduler)})
    if device == "cuda":
        torch.cuda.empty_cache()


def run_child(spec_path: Path, out: Path, *, traced: str) -> None:
    """The process of a case: the job, with its log and the driver's figures written down."""
    import torch

    from gpu_jobs.common.busy import BusyMeter
    from gpu_jobs.common.entry import read_spec
    from gpu_jobs.cosmos_generate.job import cosmos_generate

    spec = read_spec(CosmosGenerateSpec, json.loads(spec_path.read_text()))
    offset_s = time.time() - time.perf_counter()
    with out.open("w") as lines, _written(lines):
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with BusyMeter(device) as busy, _looking_on(traced) as seen:
            report = cosmos_generate(spec)
        on_gpu = device.type == "cuda"
        end = {
            "event": "end",
            "resumed": sum(receipt["resumed"] for receipt in report.receipts),
            "failures": report.failures,
            "recoveries": report.recoveries,
            "peak_allocated_gb": torch.cuda.max_memory_allocated() / 1e9 if on_gpu else 0.0,
            "peak_reserved_gb": torch.cuda.max_memory_reserved() / 1e9 if on_gpu else 0.0,
            "busy": [(at_s + offset_s, share) for at_s, share in busy.samples],
            **seen(),
        }
        lines.write(json.dumps(end) + "\n")


def _kill(case: Case, spec: Path, folder: Path) -> dict[str, Any]:
    """Start the job, kill it when some clips stand, and say what it left."""
    staging = folder / "staging"
    job = subprocess.Popen(
        [sys.executable, "-m", "gpu_jobs.cosmos_generate.job", spec],
        stdout=subprocess.DEVNULL,
        stderr=(folder / "killed.txt").open("w"),
    )
    deadline_s = time.time() + TIMEOUT_S
    while time.time() < deadline_s and job.poll() is None:
        if len(list(staging.glob("*/.sums.json"))) >= case.kill_after:
            break
        time.sleep(0.05)
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    return {
        "left_standing": len(list(staging.glob("*/.sums.json"))),
        "left_half": len(list(staging.glob("*.partial"))),
        "killed_status": job.returncode,
    }


def _guards(record: Model, checkpoints: Path) -> dict[str, Any]:
    """Small random guards for a family that runs with guards alone; none for the others."""
    if record.tiny or record.record.guardrail != "required":
        return {}
    from gpu_jobs.cosmos_generate.tiny.guards import write_tiny_guardrail

    folder = checkpoints / "guardrail"
    if not folder.exists():
        write_tiny_guardrail(folder)
    return {"text": ["blocklist", "aegis"], "video": ["content", "faces"], "dir": str(folder)}


def _write_t5(folder: Path) -> None:
    from transformers import T5Config, T5EncoderModel, T5TokenizerFast

    from gpu_jobs.cosmos_generate.bench_models import TEXT_WIDTH
    from gpu_jobs.cosmos_generate.tiny.text import vocabulary

    tokenizer = T5TokenizerFast(vocab=vocabulary(), extra_ids=0, model_max_length=512)
    tokenizer.save_pretrained(folder / "tokenizer")
    config = T5Config(
        vocab_size=len(tokenizer), d_model=TEXT_WIDTH, num_layers=T5_LAYERS, use_cache=False
    )
    T5EncoderModel(config).save_pretrained(folder / "text_encoder")


class _written(logging.Handler):  # noqa: N801 - reads as a context manager
    """Writes every event that the job logs, with its time."""

    def __init__(self, lines: Any):
        super().__init__(logging.DEBUG)
        self._lines = lines

    def __enter__(self) -> None:
        logging.basicConfig(level=logging.INFO, stream=sys.stderr)
        logger = logging.getLogger("gpu_jobs")
        logger.setLevel(logging.DEBUG)
        logger.addHandler(self)

    def __exit__(self, *exc: object) -> None:
        logging.getLogger("gpu_jobs").removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            facts = json.loads(record.getMessage())
        except ValueError:
            return
        if isinstance(facts, dict):
            self._lines.write(json.dumps({"at_s": record.created, **facts}) + "\n")
            self._lines.flush()


class _looking_on:  # noqa: N801 - reads as a context manager
    """The profiler, or torch's warnings of host waits, beside the job; answers what was seen."""

    def __init__(self, traced: str):
        self._traced = traced
        self._profiler: Any = None
        self._waits: dict[str, int] = {}

    def __enter__(self) -> Any:
        import torch

        if self._traced == "kernels":
            self._profiler = torch.profiler.profile(
                activities=[torch.profiler.ProfilerActivity.CUDA], acc_events=True
            )
            self._profiler.__enter__()
        if self._traced == "syncs":
            import warnings

            warnings.simplefilter("always")
            warnings.showwarning = self._count  # type: ignore[assignment]
            torch.cuda.set_sync_debug_mode("warn")
        return self._seen

    def __exit__(self, *exc: object) -> None:
        if self._profiler is not None:
            self._profiler.__exit__(*exc)

    def _count(self, message: Any, category: Any, file: str, line: int, *_: Any) -> None:
        if "synchroniz" in str(message):
            place = f"{'/'.join(Path(file).parts[-3:])}:{line}"
            self._waits[place] = self._waits.get(place, 0) + 1

    def _seen(self) -> dict[str, Any]:
        kernels = list(self._kernels()) if self._profiler is not None else []
        return {"kernels": kernels, "syncs": self._waits}

    def _kernels(self) -> Iterator[tuple[float, float]]:
        """Times in which at least one kernel ran, as (start, stop) in seconds."""
        import torch

        events = self._profiler.profiler.kineto_results.events()
        spans = sorted(
            (event.start_ns(), event.start_ns() + event.duration_ns())
            for event in events
            if event.device_type() == torch.autograd.DeviceType.CUDA
        )
        start, stop = spans[0]
        for first, last in spans[1:]:
            if first > stop:
                yield start / 1e9, stop / 1e9
                start = first
            stop = max(stop, last)
        yield start / 1e9, stop / 1e9


def _union_share(spans: Sequence[Sequence[float]], start_s: float, stop_s: float) -> float | None:
    inside = sum(max(0.0, min(stop, stop_s) - max(start, start_s)) for start, stop in spans)
    return round(inside / (stop_s - start_s), 4) if spans and stop_s > start_s else None


def _mean_busy(samples: Sequence[Sequence[float]], start_s: float, stop_s: float) -> float | None:
    inside = [share for at_s, share in samples if start_s <= at_s <= stop_s]
    return round(sum(inside) / len(inside), 4) if inside else None


def _events(told: Sequence[dict[str, Any]], event: str) -> list[dict[str, Any]]:
    return [line for line in told if line["event"] == event]


def _parts(offload: str) -> tuple[str, ...]:
    return tuple(filter(None, offload.split("+")))


def _short(row: dict[str, Any]) -> Iterator[str]:
    for key, value in row.items():
        if value not in ("", None, {}, [], {"kernels": []}):
            yield f"{key}: {_rounded(value)}"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()
