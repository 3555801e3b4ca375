"""What post-training costs on this GPU, with random weights in the real architectures.

Run `python -m gpu_jobs.posttrain.bench OUT.jsonl SECTION...`, a section being the name of a function
of this module with its arguments behind colons, e.g. `train:predict2-2b:lora`,
`train:cosmos1-7b:lora:again:2`, `train:v2w-7b:lora:again:1:compiled:fp8`,
`train:v2w-7b:lora:again:1::bf16:auto`, `memory:v2w-7b`, `repeat:draft`. Under `torchrun
--nproc_per_node=N` processes share a batch, and the first one writes. Arithmetic does not care what
weights are; losses say only that numbers stay numbers. A section that fails is a line with its error.

Rates count the operations of the model (see `training.lora_flops`), not activations that are computed
again; `mfu` is their share of the measured bf16 peak of one H200.
"""

import gc
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from gpu_jobs.common.processes import joined_processes
from gpu_jobs.cosmos_generate.bench import BF16_TFLOPS
from gpu_jobs.cosmos_generate.bench_models import (
    CASES,
    TEXT_TOKENS,
    TEXT_WIDTH,
    Case,
    transformer_of,
)
from gpu_jobs.posttrain.base import Base, BaseKey
from gpu_jobs.posttrain.cosmos3 import caption_length
from gpu_jobs.posttrain.learner import Draws, Learner
from gpu_jobs.posttrain.lora import target_layers
from gpu_jobs.posttrain.objectives import objective_of
from gpu_jobs.posttrain.parallel import Fleet
from gpu_jobs.posttrain.training import lora_flops
from worldloop.cosmos.families import ClipShape, Family
from worldloop.federation.adapters import difference, initial_adapter, norm
from worldloop.federation.rounds import Mode, Training

Record = Callable[..., None]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NUM_WARM, NUM_STEPS = 2, 5
_NUM_WINDOWS = 8
_COSMOS3_CASES = {
    f"cosmos3-{size}-256p": Case(
        f"cosmos3-{size}-256p", f"Cosmos3-{size.title()}", ClipShape(61, 320, 192, 24)
    )
    for size in ("edge", "nano")
}
"""Windows of the published vision training, see `recipes.cosmos3_nano`."""


def main() -> None:
    """Run sections and write a line for each measurement."""
    out, sections = Path(sys.argv[1]), sys.argv[2:]
    with joined_processes(_device()) as processes, out.open("a") as lines:
        fleet = Fleet(processes.size, processes.rank)
        started_s = time.perf_counter()

        def record(name: str, **values: Any) -> None:
            if not fleet.leads:
                return
            row = {"name": name, "at_s": round(time.perf_counter() - started_s, 1), **values}
            lines.write(json.dumps(row) + "\n")
            lines.flush()
            sys.stdout.write(json.dumps(row) + "\n")
            sys.stdout.flush()

        record("machine", **_machine(), processes=fleet.size)
        for section in sections:
            name, *arguments = section.split(":")
            try:
                SECTIONS[name](record, fleet, *arguments)
            except Exception as error:  # noqa: BLE001 - a section that fails must not stop the others
                traceback.print_exc(limit=-4)
                record(section, error=f"{type(error).__name__}: {error}"[:500])
            _forget()


def train(
    record: Record,
    fleet: Fleet,
    key: str,
    mode: Mode = "lora",
    again: str = "",
    batch_size: str = "1",
    compiled: str = "",
    precision: str = "bf16",
    attention: str = "cudnn",
) -> None:
    """Steps of a training: seconds, tokens a second and share of the peak.

    Args:
        record: Takes the row.
        fleet: The processes that train together.
        key: In `CASES`, or `cosmos3-edge-256p` or `cosmos3-nano-256p`.
        mode: `lora` (rank 8 on the default targets) or `full`.
        again: `again` computes activations again in the backward pass.
        batch_size: Windows of a step, of all processes; fewer than these share a window's tokens.
        compiled: `compiled` compiles blocks.
        precision: `bf16` or `fp8`.
        attention: `cudnn` or `auto`, as of `Learner`.
    """
    case, count = {**CASES, **_COSMOS3_CASES}[key], int(batch_size)
    fleet = Fleet.started(fleet.size, fleet.rank, batch_size=count)
    training = _training(case, mode, again=bool(again), batch_size=count, precision=precision)
    learner = _learner(case, training, fleet, compiled=bool(compiled), attention=attention)
    started_s = time.perf_counter()
    loss = learner.step(None, 0, rate=1.0)
    _synchronize()
    first_s = time.perf_counter() - started_s
    _reset_peak()
    spent = []
    for number in range(1, NUM_WARM + NUM_STEPS):
        started_s = time.perf_counter()
        loss = learner.step(None, number, rate=1.0)
        _synchronize()
        spent.append(time.perf_counter() - started_s)
    step_s = statistics.median(spent[NUM_WARM - 1 :])
    base, windows = learner.base, learner.draws.windows
    cost = base.objective.step_cost(base.world, count, windows.latent(0), windows.context(0))
    flops = (3 * cost.once.total if mode == "full" else lora_flops(cost.once)) + cost.beside
    tokens = cost.tokens
    record(
        ":".join(("train", key, mode, again, batch_size, compiled, precision, attention)),
        loss=float(loss),
        step_s=step_s,
        first_s=round(first_s, 1),
        tokens=tokens,
        tokens_per_s=tokens / step_s,
        pflop=flops / 1e15,
        tflops=flops / step_s / 1e12,
        mfu=flops / step_s / 1e12 / fleet.size / BF16_TFLOPS,
        floor_s=flops / fleet.size / (BF16_TFLOPS * 1e12),
        parameters=sum(one.numel() for one in learner.parameters.values()),
        peak_gb=_peak_gb(),
        finite=bool(torch.isfinite(loss)),
    )
    learner.close()


def memory(record: Record, fleet: Fleet, key: str) -> None:
    """The most windows of a step that fit: 1, 2, 4 and so on, activations computed again."""
    batch_size = 1
    while True:
        try:
            train(record, fleet, key, "lora", "again", str(batch_size))
        except torch.OutOfMemoryError as error:
            record(f"memory:{key}", batch_size=batch_size, error=str(error)[:100])
            return
        _forget()
        batch_size *= 2


def repeat(record: Record, fleet: Fleet, key: str, mode: Mode = "lora") -> None:
    """The same steps twice from the same start: how far apart two trainings on this GPU end.

    Distances are norms over all trained tensors, relative to the norm of what the first training changed.
    """
    case = CASES[key]
    training = _training(case, mode, again=True, batch_size=case.batch_size)
    ended = []
    for _ in range(2):
        learner = _learner(case, training, fleet, compiled=False)
        for number in range(NUM_WARM + NUM_STEPS):
            learner.step(None, number, rate=1.0)
        ended.append(difference(learner.last(), learner.started()))
        learner.close()
        del learner
        _forget()
    apart = norm(difference(ended[1], ended[0]))
    record(f"repeat:{key}:{mode}", steps=training.num_steps, relative=apart / norm(ended[0]))


SECTIONS: dict[str, Callable[..., None]] = {"train": train, "memory": memory, "repeat": repeat}


@dataclass
class RandomWindows:
    """Random latents and captions of a case.

    Attributes:
        case: Shape and model.
        generator: Of the numbers.
    """

    case: Case
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))
    num_clips: int = _NUM_WINDOWS
    fingerprint: str = "random"
    encode_s: float = 0.0

    def __post_init__(self) -> None:
        size = self.case.record.latent_size(self.case.shape)
        channels = self.case.record.latent_channels
        self._latent = torch.randn(channels, *size, generator=self.generator)

    def __len__(self) -> int:
        return _NUM_WINDOWS

    def clip(self, index: int) -> int:
        """Every window is a clip of its own."""
        return index

    def latent(self, index: int) -> torch.Tensor:
        """The same numbers, turned."""
        return self._latent.roll(index, dims=-1)

    def context(self, index: int) -> torch.Tensor:
        """A full caption; of Cosmos 3 as many tokens."""
        if self.case.record.family == "cosmos3":
            context = torch.zeros(caption_length(self.case.record.record), 1, dtype=torch.int32)
            context[:TEXT_TOKENS] = 1
            return context
        return torch.ones(TEXT_TOKENS, TEXT_WIDTH)


@dataclass
class RandomWorld:
    """What of a backend the learner asks for.

    Attributes:
        model: Its entry in the registry.
        parts: `transformer` alone.
        pipeline: Of Cosmos 3, for tokens and positions.
    """

    model: Any
    parts: dict[str, Any]
    pipeline: Any = None

    @property
    def family(self) -> Family:
        """Of the model."""
        found: Family = self.model.record
        return found


def _training(
    case: Case, mode: Mode, *, again: bool, batch_size: int, precision: str = "bf16"
) -> Training:
    return Training(
        shape=case.shape,
        mode=mode,
        batch_size=batch_size,
        num_steps=NUM_WARM + NUM_STEPS,
        checkpoint_blocks=again,
        precision=precision,
    )


def _learner(
    case: Case, training: Training, fleet: Fleet, *, compiled: bool, attention: str = "cudnn"
) -> Learner:
    torch.manual_seed(0)  # every process has the same weights
    transformer = transformer_of(case.record, torch.device(_device()))
    pipeline = _pipeline(transformer) if case.record.family == "cosmos3" else None
    if training.mode == "full":
        transformer.float()
    key = BaseKey(case.model, "", precision="bf16", device=_device())
    world = RandomWorld(case.record, {"transformer": transformer}, pipeline)
    blank = torch.zeros(TEXT_TOKENS, TEXT_WIDTH)
    base = Base(key, world, objective_of(case.record).bound_to(world), _blank=blank)
    start = None
    if training.mode == "lora":
        start = initial_adapter(0, target_layers(transformer, training.targets), training.rank)
    draws = Draws(RandomWindows(case), training, 0, "bench")
    return Learner(
        base, training, draws, start=start, fleet=fleet, compiled=compiled, attention=attention
    )


def _pipeline(transformer: Any) -> Any:
    """Cosmos 3's positions, with the tokenizer and autoencoder of the tiny model, which are not measured."""
    from gpu_jobs.common.torch_ops import import_diffusers
    from gpu_jobs.cosmos_generate.tiny.cosmos3 import tiny_tokenizer, tiny_vae

    return import_diffusers().Cosmos3OmniPipeline(
        transformer=transformer,
        text_tokenizer=tiny_tokenizer(),
        vae=tiny_vae(),
        scheduler=None,
        enable_safety_checker=False,
    )


def _device() -> str:
    if DEVICE == "cpu":
        return "cpu"
    from gpu_jobs.common.processes import this_rank

    return f"cuda:{this_rank() % torch.cuda.device_count()}"


def _machine() -> dict[str, Any]:
    import diffusers

    named = torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu"
    return {"gpu": named, "torch": torch.__version__, "diffusers": diffusers.__version__}


def _synchronize() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def _reset_peak() -> None:
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()


def _peak_gb() -> float:
    return torch.cuda.max_memory_allocated() / 1e9 if DEVICE == "cuda" else 0.0


def _forget() -> None:
    gc.collect()
    if DEVICE == "cuda":
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
