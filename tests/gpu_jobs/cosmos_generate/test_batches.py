"""Batches: what is decoded beside denoising, what happens when memory runs out, what is measured."""

import errno
import threading
import time
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from gpu_jobs.common.busy import BusyMeter
from gpu_jobs.cosmos_generate import batches
from gpu_jobs.cosmos_generate.batches import Studio, Work
from gpu_jobs.cosmos_generate.job import cosmos_generate
from gpu_jobs.cosmos_generate.measurements import Measured
from gpu_jobs.cosmos_generate.prepare import Prepared
from gpu_jobs.cosmos_generate.protocol import Decoded, DenoiseOptions, Embedding, Media
from gpu_jobs.cosmos_generate.residency import STREAMED, Parked, Residency
from gpu_jobs.cosmos_generate.spec import PARTS
from tests.gpu_jobs.cosmos_generate.job_specs import asked_clips, small_spec
from worldloop.cosmos.families import ClipShape
from worldloop.cosmos.requests import ClipRequest
from worldloop.errors import ClipRejectedError, JobFailedError

CPU = torch.device("cpu")
SHAPE = ClipShape(num_frames=5, width_px=32, height_px=32, rate_fps=16)
NO_ROOM = torch.OutOfMemoryError("CUDA out of memory")


@dataclass
class Parts:
    """A residency that notes what it is asked, and that parts move only while nothing computes."""

    overlaps: bool = True
    guards_between: bool = False
    plans: list = field(default_factory=lambda: [("tokenizer",), ("tokenizer", "transformer")])
    computing: set = field(default_factory=set)
    asked: list = field(default_factory=list)

    def enter(self, phase):
        self.asked.append(phase)

    def grow(self, *, streams=True):
        assert not self.computing, "parts must not move while something computes"
        self.asked.append(("grow", streams))
        self.overlaps = False
        return self.plans.pop(0) if self.plans else None


@dataclass
class World:
    """A model that only waits; `decode` runs through a list of errors first."""

    residency: Parts
    errors: list = field(default_factory=list)
    seconds: float = 0.0
    parts: dict = field(default_factory=lambda: {"tokenizer": torch.nn.Identity()})

    def begin(self, requests, embeddings, options, *, device, media):
        world = self

        class Denoising(SimpleNamespace):
            num_steps = 3

            def step(self, index):
                world.residency.computing.add("denoise")
                time.sleep(world.seconds)
                world.residency.computing.discard("denoise")

            def latents(self):
                return torch.zeros(len(requests), 1)

        return Denoising()

    def decode(self, latents, request, options):
        if self.errors:
            error = self.errors.pop(0)
            if error is not None:
                raise error
        return Decoded(np.zeros((SHAPE.num_frames, 32, 32, 3), np.uint8))


def studio_of(world, finish=lambda *_: None) -> Studio:
    return Studio(world, lambda: DenoiseOptions(SHAPE, 3, 7.0, "any"), world.residency, CPU, finish)


def works(count: int) -> list[list[Work]]:
    """Batches of one clip each."""
    return [
        [Work(Prepared(ClipRequest(f"clip{i}", "x"), "x", False, "", Media()), Embedding(0, 0))]
        for i in range(count)
    ]


def test_memory_that_runs_out_beside_denoising_is_first_met_by_decoding_between():
    made = []
    world = World(Parts(), errors=[NO_ROOM], seconds=0.05)
    studio = studio_of(world, lambda work, *_: made.append(work.prepared.request.clip_id))
    assert studio.run(works(3)) == []
    assert sorted(made) == ["clip0", "clip1", "clip2"]
    assert studio.recoveries == [
        "out of memory (decode); went on with decoding between batches, not beside them"
    ]
    assert not studio.overlaps
    assert not any("grow" in asked for asked in world.residency.asked)


def test_parts_never_move_while_a_batch_is_denoised():
    world = World(Parts(), errors=[NO_ROOM] * 4, seconds=0.02)
    studio = studio_of(world)
    assert studio.run(works(4)) == []
    assert "between batches" in studio.recoveries[0]
    assert studio.recoveries[1].endswith("went on with tokenizer offloaded")


def test_decoding_never_makes_the_transformer_stream():
    world = World(Parts(plans=[]), errors=[NO_ROOM])
    with pytest.raises(JobFailedError, match="too little memory"):
        studio_of(world).run(works(1))
    assert world.residency.asked[-1] == ("grow", False)


def test_a_decoder_that_finds_no_room_goes_in_ever_smaller_chunks(tmp_path, monkeypatch):
    from gpu_jobs.cosmos_generate.backends.cosmos1 import Cosmos1WorldModel

    decode = Cosmos1WorldModel.decode

    def in_little_memory(world, *args):
        if getattr(world.parts["tokenizer"], "latent_frames_per_chunk", 99) > 2:
            raise NO_ROOM
        return decode(world, *args)

    monkeypatch.setattr(Cosmos1WorldModel, "decode", in_little_memory)
    report = cosmos_generate(small_spec(tmp_path, count=1))
    assert len(report.clips) == 1
    assert report.recoveries[-2].endswith("decoding in chunks of 4 latent frames")
    assert report.recoveries[-1].endswith("decoding in chunks of 2 latent frames")
    assert not any(STREAMED in words for words in report.recoveries)


def test_prompts_are_encoded_again_after_the_memory_ran_out(tmp_path, monkeypatch):
    from gpu_jobs.cosmos_generate.backends.pipeline import T5WorldModel

    encode, tries = T5WorldModel.encode, []

    def short_of_memory(world, *texts):
        tries.append(texts)
        if len(tries) == 1:
            raise NO_ROOM
        return encode(world, *texts)

    monkeypatch.setattr(T5WorldModel, "encode", short_of_memory)
    report = cosmos_generate(small_spec(tmp_path, count=1))
    assert len(report.clips) == 1
    assert "(encode)" in report.recoveries[0]


def test_a_matrix_library_that_finds_no_memory_is_out_of_memory_too():
    error = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`")
    studio = studio_of(World(Parts(), errors=[error]))
    assert studio.run(works(1)) == []
    assert len(studio.recoveries) == 1


def test_an_autoencoder_that_decodes_is_not_the_one_that_encodes(tmp_path, monkeypatch):
    picture = tmp_path / "first.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)).save(picture)
    asked = asked_clips(3, conditioning={"path": str(picture), "num_frames": 1})
    changes = {
        "model": "Tiny-Cosmos-Predict2-Video2World",
        "requests": asked,
        "shape": {"num_frames": 9, "width_px": 64, "height_px": 64, "rate_fps": 16},
    }
    beside = cosmos_generate(small_spec(tmp_path / "beside", **changes))
    monkeypatch.setattr(Studio, "overlaps", property(lambda _: False))
    between = cosmos_generate(small_spec(tmp_path / "between", **changes))
    assert [c["content_sha256"] for c in beside.clips] == [
        c["content_sha256"] for c in between.clips
    ]


def test_a_world_keeps_notes_of_encoding_apart_from_those_of_decoding():
    world = World(Parts())
    other = batches._with_own_autoencoder(world)
    other.parts["tokenizer"].notes = "of encoding"
    assert not hasattr(world.parts["tokenizer"], "notes")


def test_a_clip_of_another_length_than_asked_fails_alone():
    world = World(Parts())
    decode, calls = world.decode, []

    def short_first(*args):
        calls.append(1)
        decoded = decode(*args)
        return Decoded(decoded.frames[:3]) if len(calls) == 1 else decoded

    world.decode = short_first
    stopped = studio_of(world).run(works(2))
    assert [(stop.request.clip_id, stop.stage) for stop in stopped] == [("clip0", "decode")]
    assert "3 frames and 5" in stopped[0].reason


def test_denoising_does_not_wait_for_clips_to_be_encoded():
    gate, begun = threading.Event(), []
    world = World(Parts())
    begin = world.begin

    def counted(requests, *args, **kwargs):
        begun.append(requests)
        if len(begun) == 3:
            gate.set()
        return begin(requests, *args, **kwargs)

    world.begin = counted
    assert studio_of(world, lambda *_: gate.wait(5)).run(works(3)) == []
    assert gate.is_set()
    assert len(begun) == 3


def test_a_full_disk_ends_the_run_and_another_error_fails_one_clip():
    def fails(work, *_):
        if work.prepared.request.clip_id == "clip1":
            raise ClipRejectedError("encode", "odd sides")

    assert [s.stage for s in studio_of(World(Parts()), fails).run(works(3))] == ["encode"]

    def no_space(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        studio_of(World(Parts()), no_space).run(works(3))


def test_guards_that_leave_look_at_clips_between_two_batches():
    parts = Parts(overlaps=False, guards_between=True)
    studio, seen = studio_of(World(parts)), []
    studio.guard = lambda work, decoded: seen.append(work.prepared.request.clip_id) or decoded
    assert studio.run(works(2)) == []
    assert parts.asked == ["begin", "denoise", "decode", "guard"] * 2
    assert seen == ["clip0", "clip1"]


def test_a_clip_that_a_guard_stops_or_that_breaks_a_guard_is_not_finished():
    finished = []
    studio = studio_of(World(Parts()), lambda work, *_: finished.append(work))

    def guard(work, decoded):
        if work.prepared.request.clip_id == "clip0":
            raise KeyError("broken")
        return None

    studio.guard = guard
    assert [stop.stage for stop in studio.run(works(2))] == ["guard"]
    assert finished == []


def test_parts_do_not_move_while_a_guard_looks_at_a_clip():
    world = World(Parts(overlaps=False), errors=[None, NO_ROOM])
    studio = studio_of(world)

    def guard(work, decoded):
        world.residency.computing.add("guard")
        time.sleep(0.05)
        world.residency.computing.discard("guard")
        return decoded

    studio.guard = guard
    assert studio.run(works(2)) == []
    assert ("grow", False) in world.residency.asked


def test_all_guards_look_at_a_clip_of_a_family_that_needs_them(tmp_path):
    from gpu_jobs.cosmos_generate.tiny.guards import write_tiny_guardrail

    write_tiny_guardrail(tmp_path / "guardrail")
    names = {"text": ["blocklist", "aegis"], "video": ["content", "faces"]}
    guards = {**names, "dir": str(tmp_path / "guardrail")}
    between = ("guardrail", "tokenizer", "transformer")
    report = cosmos_generate(small_spec(tmp_path, guards=guards, offload=between))
    states = {receipt["guardrail"] for receipt in report.receipts}
    assert states == {"text:blocklist+aegis video:content+faces"}


def test_guards_stay_where_decoding_runs_beside_denoising():
    guards = {"guardrail": torch.nn.Linear(2, 2), "transformer": torch.nn.Linear(2, 2)}
    assert not Residency(guards, device=CPU, offload=["guardrail"]).guards_between
    assert Residency(guards, device=CPU, offload=["guardrail", "transformer"]).guards_between


def test_the_first_step_of_a_job_does_not_count_as_a_step():
    measured = Measured(denoise_s=15.0, warm_s=5.0, num_steps=10)
    assert measured.step_s == pytest.approx(1.0)


def test_seconds_of_the_device_are_counted_once():
    beside = Measured(denoise_s=8.0, decode_s=1.0, beside=True, num_clips=4)
    between = Measured(denoise_s=8.0, decode_s=1.0, beside=False, num_clips=4)
    assert (beside.gpu_s, between.gpu_s) == (2.0, 3.0)


def test_what_was_measured_belongs_to_one_clip():
    seen = []
    studio = studio_of(
        World(Parts(overlaps=False)), lambda work, decoded, measured: seen.append(measured)
    )
    studio.run([[*works(1)[0], *works(1)[0]]])
    assert len({id(measured) for measured in seen}) == 2
    assert all(measured.num_clips == 2 and measured.num_steps == 3 for measured in seen)


def test_a_released_part_gives_its_weights_back():
    part = torch.nn.Linear(4, 4)
    residency = Residency({"text_encoder": part}, device=CPU)
    residency.enter("encode")
    residency.release("text_encoder")
    assert part.weight.device.type == "meta"


def test_a_part_that_leaves_a_cpu_keeps_its_weights():
    part = torch.nn.Linear(4, 4)
    before = part.weight.clone()
    parked = Parked(part)
    assert parked.bring(CPU, pinned=False)
    assert not parked.bring(CPU, pinned=False)
    parked.leave()
    assert not parked.present
    assert torch.equal(part.weight, before)


def test_a_plan_grows_to_streaming_for_denoising_alone():
    residency = Residency({"transformer": torch.nn.Linear(2, 2)}, device=CPU, offload=PARTS)
    assert residency.grow(streams=False) is None
    assert STREAMED in residency.grow()


def test_the_busy_share_is_that_of_a_span_of_time():
    meter = BusyMeter(CPU)
    meter._samples = [(1.0, 0.0), (2.0, 1.0), (3.0, 0.5)]
    assert meter.between(1.5, 3.5) == 0.75
    assert meter.between(5.0, 6.0) is None
    assert meter.share == 0.5
