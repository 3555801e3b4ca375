"""What generation costs on this GPU, with random weights in the real architectures.

Run `python -m gpu_jobs.cosmos_generate.bench OUT.jsonl SECTION...`, a section being the name of a
function of this module with its arguments behind colons, e.g. `peak`, `passes:cosmos1-7b:fast`,
`run:cosmos1-7b:sparse`, `memory:cosmos1-7b:exact:5:24`. Under `torchrun --nproc_per_node=N` all
processes share the tokens of a clip, and the first one writes. Arithmetic does not care what weights are, so that times, memory and rates
are those of the real checkpoints; what a profile does to quality is measured elsewhere. A section
that fails is a line with its error, and the others go on.
"""

import contextlib
import gc
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from gpu_jobs.cosmos_generate import vae_chunks
from gpu_jobs.cosmos_generate.bench_models import (
    CASES,
    Case,
    begin,
    companions,
    forward_of,
    transformer_of,
    vae_of,
    world_of,
)
from gpu_jobs.cosmos_generate.protocol import DenoiseOptions
from gpu_jobs.cosmos_generate.residency import LARGER, Residency
from gpu_jobs.cosmos_generate.speed import fused as ops
from gpu_jobs.cosmos_generate.speed import sparse
from gpu_jobs.cosmos_generate.speed.apply import apply_profile, apply_to
from gpu_jobs.cosmos_generate.speed.fused import quantise
from worldloop.cosmos.flops import PassFlops, pass_flops, token_grid
from worldloop.cosmos.profiles import SpeedProfile, profile
from worldloop.cosmos.requests import ClipRequest
from worldloop.cosmos.tiles import tiling, window

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
Record = Callable[..., None]


def main() -> None:
    """Run sections and write a line for each measurement."""
    out, sections = Path(sys.argv[1]), sys.argv[2:]
    torch.set_grad_enabled(False)
    leads = _join_ranks()
    with out.open("a") as lines:

        def record(name: str, **values: Any) -> None:
            if not leads:
                return
            row = {"name": name, "at_s": round(time.perf_counter() - start_s, 1), **values}
            lines.write(json.dumps(row) + "\n")
            lines.flush()
            sys.stdout.write(_short(row) + "\n")
            sys.stdout.flush()

        start_s = time.perf_counter()
        record("machine", **_machine())
        for section in sections:
            name, *arguments = section.split(":")
            torch.manual_seed(0)  # every rank has the same weights
            try:
                SECTIONS[name](record, *arguments)
            except Exception as error:  # noqa: BLE001 - a section that fails must not stop the others
                traceback.print_exc(limit=-4)
                record(section, error=f"{type(error).__name__}: {error}"[:500])
            _forget()


def _join_ranks() -> bool:
    """Under `torchrun`, meet the other processes; whether this one writes."""
    if not dist.is_torchelastic_launched():
        return True
    dist.init_process_group("nccl" if DEVICE.type == "cuda" else "gloo")
    if DEVICE.type == "cuda":
        torch.cuda.set_device(dist.get_rank() % torch.cuda.device_count())
    return bool(dist.get_rank() == 0)


def peak(record: Record) -> None:
    """Rates of matrix products that nothing here can exceed."""
    rows, inner, outer = 16384, 4096, 16384
    x = torch.randn(rows, inner, device=DEVICE, dtype=torch.bfloat16)
    w = torch.randn(outer, inner, device=DEVICE, dtype=torch.bfloat16)
    flops = 2.0 * rows * inner * outer
    ms = _median_ms(lambda: x @ w.t(), 10)
    record("peak_bf16", ms=ms, tflops=flops / ms / 1e9)
    (x8, x_scale), (w8, w_scale) = quantise(x), quantise(w)
    ms = _median_ms(
        lambda: torch._scaled_mm(
            x8,
            w8.t(),
            scale_a=x_scale,
            scale_b=w_scale.t(),
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        ),
        10,
    )
    record("peak_fp8", ms=ms, tflops=flops / ms / 1e9)


def flex(record: Record, key: str, density: str) -> None:
    """The kernel of sparse attention with different block sizes."""
    case = CASES[key]
    grid = token_grid(case.record, case.shape)
    chosen = window(tiling(grid), float(density))
    order = sparse.order_of(
        num_tokens=chosen.tiling.num_tokens, window=chosen, ranks=1, device=DEVICE
    )
    mask = order.mask_of(0, 0)
    heads, width = case.record.num_heads, case.record.head_dim
    q, k, v = (
        torch.randn(
            1, order.num_places, heads, width, device=DEVICE, dtype=torch.bfloat16
        ).transpose(1, 2)
        for _ in range(3)
    )
    flops = 4.0 * order.num_places**2 * heads * width * mask.density
    for options in FLEX_OPTIONS:
        sparse.KERNEL_OPTIONS = options
        try:
            ms = _median_ms(lambda: sparse.sparse_attention(q, k, v, mask), 5)
        except Exception as error:  # noqa: BLE001 - some options do not fit this GPU
            record(f"flex {key}", options=options, error=str(error)[:200])
            continue
        record(
            f"flex {key}",
            options=options,
            size=chosen.size,
            density=mask.density,
            ms=ms,
            tflops=flops / ms / 1e9,
        )
    sparse.KERNEL_OPTIONS = {}


FLEX_OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"BLOCK_M": 128, "BLOCK_N": 128, "num_warps": 8, "num_stages": 2},
    {"BLOCK_M": 128, "BLOCK_N": 64, "num_warps": 8, "num_stages": 3},
    {"BLOCK_M": 128, "BLOCK_N": 64, "num_warps": 4, "num_stages": 3},
    {"BLOCK_M": 128, "BLOCK_N": 128, "num_warps": 8, "num_stages": 2, "USE_TMA": True},
    {"BLOCK_M": 128, "BLOCK_N": 64, "num_warps": 8, "num_stages": 3, "USE_TMA": True},
)


def fused(record: Record) -> None:
    """The Triton kernels beside the same in plain torch on the CPU, and their time beside the bytes."""
    torch.manual_seed(0)
    x = torch.randn(1, 300, 4096, dtype=torch.bfloat16)
    rows = torch.randn(1, 5, 3 * 4096, dtype=torch.bfloat16)
    frame = torch.randint(0, 5, (300,))
    heads = torch.randn(1, 300, 3 * 4096, dtype=torch.bfloat16)[..., :4096].unflatten(2, (32, 128))
    rope = (torch.randn(300, 128), torch.randn(300, 128))
    weight = torch.rand(128, dtype=torch.bfloat16)
    checks: dict[str, Any] = {
        "quantise": (ops.quantise_rows, (x,)),
        "gelu": (ops.gelu_rows, (x,)),
        "gated": (ops.gated_rows, (x,)),
        "modulated": (ops.modulated_rows, (x, x.flip(1), rows.flip(1), rows, frame, 1e-6)),
        "rotated": (ops.rotated_heads, (heads, weight, *rope, 1e-6)),
    }
    for name, (operator, given) in checks.items():
        here = operator(*given)
        there = operator(*(_moved(one) for one in given))
        record(
            f"fused {name}",
            far=[_far(a, b) for a, b in zip(_tuple(there), _tuple(here), strict=True)],
        )


def _moved(one: Any) -> Any:
    return one.to(DEVICE) if isinstance(one, torch.Tensor) else one


def _tuple(one: Any) -> tuple[Any, ...]:
    return one if isinstance(one, tuple) else (one,)


def _far(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative distance, in the norm of all numbers."""
    expected = expected.float()
    return float((found.cpu().float() - expected).norm() / expected.norm())


def passes(record: Record, key: str, name: str, kernels: str = "") -> None:
    """One pass of a transformer, dense and sparse, with the share of each kind of kernel."""
    case, chosen = CASES[key], _profile(name)
    transformer = transformer_of(case.record, DEVICE)
    density = apply_to(transformer, chosen, device=DEVICE)
    forward = forward_of(transformer, case, DEVICE)
    steps = [("dense", True)] + ([("sparse", False)] if chosen.density < 1 else [])
    for step, dense in steps:
        density.dense = dense
        start_s = time.perf_counter()
        output = forward()
        _synchronize()
        first_s = time.perf_counter() - start_s
        _reset_peak()
        ms = _median_ms(forward, 2, warm=0)
        flops = pass_flops(
            case.record,
            case.shape,
            density=1.0 if dense else chosen.density,
            batch_size=case.batch_size,
        )
        record(
            f"pass {key} {name} {step}",
            ms=ms,
            first_s=round(first_s, 1),
            pflop=flops.total / 1e15,
            tflops=flops.total / ms / 1e9,
            share_of_bf16_peak=flops.total / ms / 1e9 / BF16_TFLOPS,
            peak_gb=_peak_gb(),
            finite=_finite(output),
        )
        if kernels:
            _kernels(record, f"kernels {key} {name} {step}", forward, ms)


def _kernels(record: Record, name: str, forward: Callable[[], Any], ms: float) -> None:
    """Where the time of a pass goes, by kernel."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    with profiler(activities=[ProfilerActivity.CUDA]) as traced:
        forward()
        _synchronize()
    rows = [
        (event.key, event.self_device_time_total / 1e3, event.count)
        for event in traced.key_averages()
    ]
    rows.sort(key=lambda row: -row[1])
    total = sum(row[1] for row in rows)
    record(name, kernel_ms=total, busy_share=total / ms)
    for key, spent, count in rows[:16]:
        record("  kernel", ms=spent, count=count, key=key[:90])


def vae(record: Record, key: str, *chunks: str) -> None:
    """Decoding whole and in chunks: time, memory and difference."""
    case = CASES[key]
    decoder = vae_of(case.record, DEVICE)
    torch.manual_seed(0)
    size = case.record.latent_size(case.shape)
    latent = torch.randn(1, decoder.config.z_dim if hasattr(decoder.config, "z_dim") else 16, *size)
    latent = latent.to(DEVICE, torch.bfloat16)
    whole = decoder.decode(latent, return_dict=False)[0]
    _decode_row(record, f"vae {key} whole", decoder, latent, whole)
    for chunk in chunks:
        if chunk == "last":
            vae_chunks.use_channels_last(decoder)
            continue
        if chunk == "compile":
            decoder.decoder = torch.compile(decoder.decoder, dynamic=False)
            continue
        if chunk == "benchmark":
            torch.backends.cudnn.benchmark = True
            continue
        vae_chunks.enable_chunks(decoder, int(chunk))
        label = "+".join(one for one in chunks[: chunks.index(chunk)] if not one.isdigit())
        _decode_row(record, f"vae {key} chunk {chunk} {label}", decoder, latent, whole)
    torch.backends.cudnn.benchmark = False


def _decode_row(record: Record, name: str, decoder: Any, latent: Any, whole: Any) -> None:
    def decode() -> Any:
        return decoder.decode(latent, return_dict=False)[0]

    decode()
    _forget()
    before_gb = _allocated_gb()
    _reset_peak()
    ms = _median_ms(decode, 2, warm=0)
    far = (decode().float() - whole.float()).abs()
    record(
        name,
        ms=ms,
        peak_gb=_peak_gb(),
        before_gb=before_gb,
        largest=float(far.max()),
        mean=float(far.mean()),
        scale=float(whole.float().abs().mean()),
    )


def run(record: Record, key: str, name: str) -> None:
    """A batch from noise to frames in host memory: all steps, with guidance, in one profile.

    Compilation and the first use of every kernel come before, in a run of few steps.
    """
    case, chosen = CASES[key], _profile(name)
    start_s = time.perf_counter()
    world = world_of(case, DEVICE)
    new_policy = apply_profile(world, chosen, shape=case.shape, device=DEVICE)
    _fit_decoder(world.parts["tokenizer"], case)
    _forget()

    def options(num_steps: int) -> DenoiseOptions:
        sampler = case.record.known_samplers[0]
        guidance = case.record.default_guidance
        return DenoiseOptions(case.shape, num_steps, guidance, sampler, new_policy())

    warm = options(_WARM_STEPS if chosen.density < 1.0 else _WARM_DENSE_STEPS)
    latents = _denoised(world, case, warm)
    world.decode(latents[0], ClipRequest("warm"), warm)
    ready_s = time.perf_counter() - start_s
    _reset_peak()
    computed: list[int] = []
    world.parts["transformer"].register_forward_hook(lambda *_: computed.append(1))
    asked = options(chosen.num_steps or case.num_steps)
    start_s = time.perf_counter()
    latents = _denoised(world, case, asked)
    denoise_s, denoise_gb = time.perf_counter() - start_s, _peak_gb()
    _reset_peak()
    frames = [world.decode(one, ClipRequest("bench"), asked).frames for one in latents]
    total_s = time.perf_counter() - start_s
    num_frames = sum(len(one) for one in frames)
    dense = pass_flops(case.record, case.shape, batch_size=case.batch_size)
    record(
        f"run {key} {name}",
        total_s=total_s,
        denoise_s=denoise_s,
        decode_s=total_s - denoise_s,
        ready_s=round(ready_s, 1),
        steps=asked.num_steps,
        passes=len(computed),
        ms_per_pass=1e3 * denoise_s / len(computed),
        clips=len(frames),
        frames=num_frames,
        frames_per_s=num_frames / total_s,
        dense_pflop=dense.total * 2 * asked.num_steps / 1e15,
        dense_bf16_floor_s=_floor_s(dense, asked, linears_tflops=BF16_TFLOPS),
        dense_fp8_floor_s=_floor_s(dense, asked, linears_tflops=FP8_TFLOPS),
        denoise_peak_gb=denoise_gb,
        decode_peak_gb=_peak_gb(),
    )


def memory(record: Record, key: str, name: str, rows: str, cap_gb: str = "0") -> None:
    """Peak memory of every phase with rows of the published offload table, e.g. `5` or `1,2,5`.

    All parts are there in their sizes: a prompt upsampler of 12 B, a guard of 8 B, T5-11B. Three
    steps are denoised; more need no more memory. Rows that leave more on the GPU come last, whatever
    their order in `rows`.
    """
    case, chosen, cap = CASES[key], _profile(name), float(cap_gb)
    world = world_of(case, DEVICE)
    new_policy = apply_profile(world, chosen, shape=case.shape, device=DEVICE)
    for part in world.parts.values():
        part.to("cpu")
    parts = {**world.parts, **companions()}
    _forget()
    residency = Residency(parts, device=DEVICE, memory_cap_gb=cap)
    sampler, guidance = case.record.known_samplers[0], case.record.default_guidance
    options = DenoiseOptions(case.shape, _MEMORY_STEPS, guidance, sampler, new_policy())
    try:
        for row in sorted(map(int, rows.split(",")), reverse=True):
            residency.plan = tuple(sorted(LARGER[row]))
            peaks, chunk = _phases(residency, world, parts, case, options, cap)
            record(
                f"memory {key} {name} row {row}",
                offload=list(residency.plan),
                cap_gb=cap,
                peak_gb=max(peaks.values()),
                latent_frames_per_chunk=chunk,
                **{f"{phase}_gb": peak_gb for phase, peak_gb in peaks.items()},
            )
    finally:
        if cap:
            torch.cuda.set_per_process_memory_fraction(1.0)


def _phases(
    residency: Residency, world: Any, parts: Any, case: Case, options: DenoiseOptions, cap_gb: float
) -> tuple[dict[str, float], int]:
    """Peak GB of every phase of a clip, and how many latent frames were decoded at once."""
    peaks: dict[str, float] = {}
    for phase, part in (
        ("upsample", "prompt_upsampler"),
        ("guard", "guardrail"),
        ("encode", "text_encoder"),
    ):
        with _measured(residency, phase, peaks):
            parts[part](torch.zeros(1, 512, dtype=torch.int64, device=DEVICE))
    with _measured(residency, "begin", peaks):
        denoising = begin(world, case, options, DEVICE)
    with _measured(residency, "denoise", peaks):
        for index in range(denoising.num_steps):
            denoising.step(index)
        latents = denoising.latents()
    del denoising
    with _measured(residency, "decode", peaks):
        total_gb = torch.cuda.get_device_properties(DEVICE).total_memory / 1e9
        budget_gb = (cap_gb or total_gb) - _allocated_gb() - _SPARE_GB
        size = case.record.latent_size(case.shape)
        chunk = vae_chunks.fit(world.parts["tokenizer"], size, budget_gb=budget_gb)
        world.decode(latents[0], ClipRequest("memory"), options)
    return peaks, chunk


@contextlib.contextmanager
def _measured(residency: Residency, phase: Any, peaks: dict[str, float]) -> Iterator[None]:
    """A phase, and the most memory it reserved of the device at any time."""
    residency.enter(phase)
    _forget()
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    yield
    _synchronize()
    peaks[phase] = torch.cuda.max_memory_reserved() / 1e9 if DEVICE.type == "cuda" else 0.0


_MEMORY_STEPS = 3  # the RES sampler looks back over two
_SPARE_GB = 2.0  # of a cap that the allocator cannot use in whole pieces


def _denoised(world: Any, case: Case, options: DenoiseOptions) -> Any:
    denoising = begin(world, case, options, DEVICE)
    for index in range(denoising.num_steps):
        denoising.step(index)
    latents = denoising.latents()
    _synchronize()
    return latents


def _floor_s(dense: PassFlops, options: DenoiseOptions, *, linears_tflops: float) -> float:
    """Seconds of all steps, guided and dense, at the peaks of this GPU; attention in bf16."""
    passes = 2 * options.num_steps
    return passes * dense.floor_s(linears_tflops=linears_tflops, attention_tflops=BF16_TFLOPS)


def _fit_decoder(decoder: Any, case: Case) -> None:
    """Decode in chunks as large as pays: `vae_chunks.fit` says what fits."""
    vae_chunks.fit(decoder, case.record.latent_size(case.shape), budget_gb=_DECODE_GB)


_WARM_STEPS = 9  # dense, sparse, guided, unguided and extrapolated steps are among them
_WARM_DENSE_STEPS = 3  # all passes are alike; the RES sampler looks back over two
_DECODE_GB = 40.0
BF16_TFLOPS, FP8_TFLOPS = 808.0, 1537.0  # section `peak`, one NVIDIA H200, 2026-11-21

SECTIONS: dict[str, Callable[..., None]] = {
    "run": run,
    "memory": memory,
    "peak": peak,
    "flex": flex,
    "fused": fused,
    "passes": passes,
    "vae": vae,
}


def _profile(name: str) -> SpeedProfile:
    """A profile by name; `sparse@0.1` is one of another density."""
    base, _, density = name.partition("@")
    return replace(profile(base), density=float(density)) if density else profile(base)


def _median_ms(run: Callable[[], Any], repeats: int, *, warm: int = 2) -> float:
    for _ in range(warm):
        run()
    _synchronize()
    spent = []
    for _ in range(repeats):
        start_s = time.perf_counter()
        run()
        _synchronize()
        spent.append((time.perf_counter() - start_s) * 1e3)
    return statistics.median(spent)


def _machine() -> dict[str, Any]:
    named = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "cpu"
    return {"gpu": named, "torch": torch.__version__, "cudnn": torch.backends.cudnn.version()}


def _finite(output: Any) -> bool:
    while isinstance(output, tuple | list):
        output = output[0]
    return bool(torch.isfinite(output).all())


def _synchronize() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def _reset_peak() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def _peak_gb() -> float:
    return torch.cuda.max_memory_allocated() / 1e9 if DEVICE.type == "cuda" else 0.0


def _allocated_gb() -> float:
    return torch.cuda.memory_allocated() / 1e9 if DEVICE.type == "cuda" else 0.0


def _forget() -> None:
    gc.collect()
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()


def _short(row: dict[str, Any]) -> str:
    words = [
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in row.items()
    ]
    return " ".join(words)


if __name__ == "__main__":
    main()
