import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import orchestration.spec_runs
from orchestration.cli import main
from orchestration.generate import build_spec
from orchestration.job_runs import job_command
from orchestration.spec_runs import Outcome, check_ready, run_spec
from orchestration.wanted_clips import Wanted
from worldloop.cosmos.families import family
from worldloop.errors import JobFailedError, MalformedRecordError, UnknownKeyError

T2W, V2W = "Cosmos-1.0-Diffusion-7B-Text2World", "Cosmos-1.0-Diffusion-7B-Video2World"
TRAM = "A tram turns into a wet street."


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home and working folder."""
    monkeypatch.setenv("WORLDLOOP_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("WORLDLOOP_CHECKPOINTS", raising=False)
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(tmp_path / "first.jpg")
    return tmp_path


@pytest.fixture
def asked(home, monkeypatch):
    """Specs that the command line would run, without running them."""
    specs = []

    def remember(spec, **rest):
        specs.append((spec, rest["num_devices"]))
        return Outcome((), (), (), {})

    monkeypatch.setattr(orchestration.spec_runs, "run_spec", remember)
    monkeypatch.setattr(orchestration.spec_runs, "check_ready", lambda spec, **rest: None)
    return specs


def spec_of(tmp_path, kind="text2world", **wanted):
    asks = Wanted(kind, **{"prompt": TRAM, **wanted})
    return build_spec(asks, scratch=tmp_path, revision=lambda name: "c" * 40)


def worldloop(words):
    return CliRunner().invoke(main, shlex.split(words))


def test_the_guides_text2world_command_gives_its_defaults(asked):
    answer = worldloop(
        f"generate text2world --checkpoint_dir checkpoints --diffusion_transformer_dir {T2W} "
        f'--prompt "{TRAM}" --offload_prompt_upsampler --video_save_name clip'
    )

    assert answer.exit_code == 0, answer.output
    spec, num_devices = asked[0]
    assert (spec.model, num_devices, spec.num_steps, spec.guidance) == (T2W, 1, 35, 7.0)
    assert spec.shape == {
        "num_frames": 121,
        "width_px": 1280,
        "height_px": 704,
        "rate_fps": 24,
    }
    assert (spec.sampler, spec.profile["name"], spec.offload) == (
        "res",
        "exact",
        ("prompt_upsampler",),
    )
    assert spec.requests[0]["clip_id"] == "clip"
    assert spec.requests[0]["seed"] == 1
    assert spec.upsampler["name"] == "Cosmos-1.0-Prompt-Upsampler-12B-Text2World"
    assert spec.upsampler["word_limit"] == 250
    assert spec.guards["text"] == ["blocklist", "aegis"]


def test_the_guides_low_memory_command_offloads_everything(asked):
    worldloop(
        f'generate text2world --prompt "{TRAM}" --offload_tokenizer --offload_diffusion_transformer '
        "--offload_text_encoder_model --offload_prompt_upsampler --offload_guardrail_models"
    )

    assert asked[0][0].offload == (
        "prompt_upsampler",
        "guardrail",
        "text_encoder",
        "tokenizer",
        "transformer",
    )


def test_clips_are_made_from_the_graphs_own_checkpoints_unless_said_otherwise(asked, home):
    worldloop(f'generate text2world --prompt "{TRAM}"')
    worldloop(f'generate text2world --prompt "{TRAM}" --checkpoint_dir checkpoints')

    assert asked[0][0].checkpoint_dir == str(home / "home" / "checkpoints")
    assert asked[1][0].checkpoint_dir == str(home / "checkpoints")


def test_without_offload_flags_the_memory_decides(asked):
    worldloop(f'generate text2world --prompt "{TRAM}"')

    assert asked[0][0].offload == "auto"


def test_the_predict2_command_of_the_guide(asked):
    answer = worldloop(
        "generate video2world --checkpoint_dir checkpoints --input_image_or_video_path first.jpg "
        "--num_input_frames 1 --diffusion_transformer_dir Cosmos-Predict2-2B-Video2World "
        f'--offload_prompt_upsampler --disable_prompt_upsampler --disable_guardrail --prompt "{TRAM}" '
        "--negative_prompt blurry --height 432 --width 768 --num_video_frames 81 --num_steps 35 "
        "--video_save_name video2world_2b"
    )

    assert answer.exit_code == 0, answer.output
    spec = asked[0][0]
    assert spec.shape == {"num_frames": 81, "width_px": 768, "height_px": 432, "rate_fps": 16}
    assert spec.requests[0]["negative_prompt"] == "blurry"
    assert spec.requests[0]["conditioning"]["num_frames"] == 1
    assert (spec.upsampler, spec.guards["text"], spec.guards["video"]) == ({}, [], [])
    assert "unguarded" in answer.output


def test_the_nemo_command_of_the_guide(asked):
    answer = worldloop(
        f"generate video2world --model {V2W} --cp_size 4 --num_devices 4 --video_save_path made/x.mp4 "
        f'--guidance 7 --seed 1 --prompt "{TRAM}" --conditioned_image_or_video_path first.jpg '
        '--subject_name "teal robot" --sampler RES --enable_prompt_upsampler'
    )

    assert answer.exit_code == 0, answer.output
    spec, num_devices = asked[0]
    assert (num_devices, spec.cp_size, spec.sampler) == (4, 4, "res")
    assert (Path(spec.save_dir).name, spec.requests[0]["clip_id"]) == ("made", "x")
    assert spec.requests[0]["subject_name"] == "teal robot"
    assert spec.upsampler["mode"] == "picture"


def test_the_nemo_control_command_of_the_guide(asked, home):
    (home / "edge.mp4").write_bytes(b"video")
    (home / "control").mkdir()
    answer = worldloop(
        "generate control2world --cosmos_assets_dir ./checkpoints --conditioned_image_or_video_path "
        f'first.jpg --num_devices 1 --cp_size 1 --prompt "{TRAM}" --control_weight 0.5 '
        "--ctrl_model_dir control --control edge=edge.mp4 --disable_prompt_upsampler"
    )

    assert answer.exit_code == 0, answer.output
    assert asked[0][0].model == V2W
    assert asked[0][0].requests[0]["controls"] == [
        {
            "kind": "edge",
            "path": str(home / "edge.mp4"),
            "weight": 0.5,
            "model_dir": str(home / "control"),
        }
    ]


def test_a_batch_is_named_by_index(asked, home):
    lines = [{"prompt": "A tram."}, {"prompt": "A bus."}]
    (home / "batch.jsonl").write_text("\n".join(json.dumps(line) for line in lines))

    worldloop("generate text2world --batch_input_path batch.jsonl --video_save_folder outputs/all")

    spec = asked[0][0]
    assert [(r["clip_id"], r["prompt"]) for r in spec.requests] == [
        ("0", "A tram."),
        ("1", "A bus."),
    ]
    assert spec.save_dir.endswith("outputs/all")


def test_a_bad_batch_line_is_one_error(asked, home):
    (home / "batch.jsonl").write_text('{"visual_input": "nowhere.mp4"}\n')

    answer = worldloop(f"generate video2world --model {V2W} --batch_input_path batch.jsonl")
    assert answer.exit_code == 1
    assert "visual_input in line 1: found 'nowhere.mp4'" in answer.output


def test_post_trained_weights_keep_the_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints" / "mine").mkdir(parents=True)
    (tmp_path / "weights").mkdir()

    assert spec_of(tmp_path, diffusion_transformer_dir="mine").transformer_dir == "mine"
    nemo = spec_of(tmp_path, nemo_checkpoint="weights", model=T2W)
    assert (nemo.model, nemo.transformer_dir) == (T2W, str(tmp_path / "weights"))


@pytest.mark.parametrize(
    ("folder", "base"),
    [
        ("Cosmos-Predict1-7B-Video2World_post-trained-lora", "Cosmos-Predict1-7B-Video2World"),
        ("nvidia/Cosmos-Predict2-14B-Video2World-mine", "Cosmos-Predict2-14B-Video2World"),
        ("mine", V2W),
    ],
)
def test_a_folder_of_post_trained_weights_says_which_model_they_are_of(home, folder, base):
    (home / "checkpoints" / folder).mkdir(parents=True)

    spec = spec_of(
        home,
        "video2world",
        diffusion_transformer_dir=folder,
        input_path="first.jpg",
        disable_prompt_upsampler=True,
    )
    assert (spec.model, spec.transformer_dir) == (base, folder)


def test_missing_folders_are_named_at_once_with_the_command_that_brings_them(tmp_path):
    spec = spec_of(tmp_path)
    words = (
        r"no Cosmos-1\.0-Diffusion-7B-Text2World, Cosmos-1\.0-Guardrail.*Prompt-Upsampler.*"
        r"worldloop models download Cosmos-1\.0-Diffusion-7B-Text2World"
    )

    with pytest.raises(MalformedRecordError, match=words):
        check_ready(spec, num_devices=1, num_gpus=1)


def test_too_few_gpus_are_refused_and_tiny_models_need_none(tmp_path):
    spec = spec_of(tmp_path, checkpoint_dir=str(tmp_path), disable_prompt_upsampler=True)
    for name in (T2W, "Cosmos-1.0-Guardrail"):
        (tmp_path / name).mkdir()

    check_ready(spec, num_devices=1, num_gpus=1)
    with pytest.raises(JobFailedError, match="2 GPUs; this machine shows 1"):
        check_ready(spec, num_devices=2, num_gpus=1)
    check_ready(replace(spec, model="Tiny-Cosmos3"), num_devices=2, num_gpus=0)


def test_a_camera_track_is_refused_in_words(asked):
    answer = worldloop(f'generate video2world --prompt "{TRAM}" --camera_extrinsics_path t.json')

    assert answer.exit_code == 1
    assert "--camera_extrinsics_path: found 't.json', expected a model of Cosmos 3" in answer.output


def test_a_tier_gives_shape_and_profile_and_single_flags_win(tmp_path):
    first = tmp_path / "first.png"
    first.write_bytes(b"picture")
    spec = spec_of(
        tmp_path,
        "video2world",
        model="Cosmos-Predict2-2B-Video2World",
        input_path=str(first),
        tier="draft",
        num_video_frames=33,
        disable_prompt_upsampler=True,
    )

    assert (spec.shape["num_frames"], spec.shape["width_px"]) == (33, 320)
    assert spec.profile["name"] == "fast"


def test_the_scratch_folder_follows_from_what_is_asked(tmp_path):
    one, same = spec_of(tmp_path), spec_of(tmp_path, offload=("tokenizer",))

    assert one.staging_dir == same.staging_dir
    assert one.staging_dir != spec_of(tmp_path, seed=2).staging_dir
    assert one.staging_dir != spec_of(tmp_path, prompt="A bus.").staging_dir


@pytest.mark.parametrize(
    ("wanted", "error", "words"),
    [
        ({"prompt": ""}, MalformedRecordError, "--prompt"),
        ({"disable_guardrail": True}, MalformedRecordError, "cannot be turned off"),
        ({"num_video_frames": 57}, MalformedRecordError, "Ask for 121"),
        ({"num_steps": 0}, MalformedRecordError, "denoising steps: found 0"),
        ({"memory_cap_gb": -3.0}, MalformedRecordError, "GB of GPU memory"),
        ({"loras": ("nowhere",)}, MalformedRecordError, "--lora: found 'nowhere'"),
        ({"video_save_name": ".."}, MalformedRecordError, "name of a clip"),
        ({"cp_size": 2}, MalformedRecordError, "cp_size: found 2"),
        ({"num_devices": 3}, MalformedRecordError, "divisor of its 32 heads"),
        ({"model": "Cosmos-1.0"}, UnknownKeyError, "world model"),
        ({"diffusion_transformer_dir": "nowhere"}, UnknownKeyError, "'nowhere'"),
        ({"nemo_checkpoint": "nowhere"}, MalformedRecordError, "a folder of weights"),
        ({"profile": "slow"}, UnknownKeyError, "speed profile"),
        ({"tier": "draft"}, MalformedRecordError, "tier of Cosmos-1.0"),
        ({"sampler": "ddim"}, MalformedRecordError, "expected res or edm_euler"),
        ({"tokenizer_dir": "other"}, MalformedRecordError, "Cosmos-1.0-Tokenizer-CV8x8x8"),
        ({"extend_to_frames": 300}, MalformedRecordError, "goes on from video"),
        ({"controls": ("sketch",)}, MalformedRecordError, "found 'sketch'"),
        ({"enable_sound": True}, MalformedRecordError, "sound by"),
        ({"prompt_upsampler_dir": "Pixtral-12B"}, MalformedRecordError, "picture"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(tmp_path, wanted, error, words):
    with pytest.raises(error, match=words):
        spec_of(tmp_path, **wanted)


def test_a_picture_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(MalformedRecordError, match=r"conditioning: found 'no\.jpg'"):
        spec_of(tmp_path, "video2world", model=V2W, input_path="no.jpg")


def test_video2world_needs_no_words_while_pixtral_reads_the_picture(tmp_path):
    first = tmp_path / "first.png"
    first.write_bytes(b"picture")

    spec = spec_of(tmp_path, "video2world", prompt="", input_path=str(first))
    assert (spec.upsampler["name"], spec.upsampler["mode"]) == ("Pixtral-12B", "picture")


def test_several_gpus_start_under_torchrun():
    words = job_command("gpu_jobs.cosmos_generate.job", Path("spec.json"), 4)

    assert words[1:4] == ["-m", "torch.distributed.run", "--standalone"]
    assert words[-4:] == ["--nproc_per_node=4", "-m", "gpu_jobs.cosmos_generate.job", "spec.json"]


def run_program(tmp_path, monkeypatch, program):
    """Run a stand-in for the job: a Python program with the same two streams."""
    monkeypatch.setattr(
        orchestration.spec_runs, "job_command", lambda *_: [sys.executable, "-c", program]
    )
    events = []
    spec = spec_of(tmp_path / "scratch", video_save_folder=str(tmp_path / "out"))
    log = tmp_path / "generate.log"
    outcome = run_spec(spec, num_devices=1, log=log, on_event=events.append)
    return outcome, events, spec, log


def report(**rows):
    return json.dumps({"clips": [], "failures": [], "blocked": [], "receipts": [], **rows})


def test_events_and_the_report_come_back(tmp_path, monkeypatch):
    done = json.dumps({"event": "clip_done", "recipe_id": "output", "ms_per_step": 7.0})
    answer = report(receipts=[{"recipe_id": "output"}])
    program = f"import sys; sys.stderr.write({done!r} + '\\nchatter\\n'); print({answer!r})"

    outcome, events, spec, log = run_program(tmp_path, monkeypatch, program)
    assert outcome.saved == (tmp_path / "out" / "output.mp4",)
    assert events[0]["ms_per_step"] == 7.0
    assert "chatter" in log.read_text()
    assert not Path(spec.staging_dir).exists()


def test_a_blocked_clip_is_a_result(tmp_path, monkeypatch):
    row = {"recipe_id": "output", "guard": "blocklist", "category": "gore", "reason": "a word"}

    outcome, *_ = run_program(tmp_path, monkeypatch, f"print({report(blocked=[row])!r})")
    assert outcome.blocked == (("output", "blocklist", "a word"),)


def test_failed_clips_keep_what_is_finished(tmp_path, monkeypatch):
    row = {"recipe_id": "output", "stage": "media", "reason": "no such file"}

    outcome, _, spec, _ = run_program(tmp_path, monkeypatch, f"print({report(failures=[row])!r})")
    assert outcome.failures == (("output", "media", "no such file"),)
    assert Path(spec.staging_dir).is_dir()


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import sys; sys.exit('JobFailedError: The GPU is lost.')", "The GPU is lost. Details"),
        ("raise ValueError('seven')", "seven"),
        ("import sys; sys.exit(3)", "exit code 3 and no report"),
        ("import os; os.kill(os.getpid(), 9)", "ran out of memory"),
        ("pass", "exit code 0 and no report"),
    ],
)
def test_a_failed_job_speaks_its_own_words(tmp_path, monkeypatch, program, words):
    with pytest.raises(JobFailedError, match=words):
        run_program(tmp_path, monkeypatch, program)
    assert not list((tmp_path / "scratch").iterdir())


def test_an_interrupted_run_ends_its_job_and_keeps_what_is_finished(tmp_path, monkeypatch):
    line = json.dumps({"event": "clip_done", "recipe_id": "output"})
    program = f"import sys, time; print({line!r}, file=sys.stderr, flush=True); time.sleep(60)"
    monkeypatch.setattr(
        orchestration.spec_runs, "job_command", lambda *_: [sys.executable, "-c", program]
    )
    spec = spec_of(tmp_path / "scratch")

    def interrupt(event):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_spec(spec, num_devices=1, log=tmp_path / "log", on_event=interrupt)
    assert Path(spec.staging_dir).is_dir()


def test_a_tiny_clip_goes_from_the_prompt_to_a_video(home):
    answer = worldloop(
        f'generate text2world --model Tiny-Cosmos-1.0-Text2World --prompt "{TRAM}" --video_save_name tram'
    )

    assert answer.exit_code == 0, answer.output
    assert "done tram" in answer.output
    with av.open(str(home / "outputs" / "tram.mp4")) as video:
        assert len(list(video.decode(video=0))) == 9
    assert (home / "outputs" / "tram.txt").read_text() == f"{TRAM}\n"
    assert not list((home / "home" / "scratch" / "generate").iterdir())


def test_a_tiny_batch_goes_on_from_pictures(home):
    line = json.dumps({"prompt": TRAM, "visual_input": "first.jpg"})
    (home / "batch.jsonl").write_text(f"{line}\n{line}\n")

    answer = worldloop(
        "generate video2world --model Tiny-Cosmos-Predict2-Video2World --batch_input_path batch.jsonl"
    )
    assert answer.exit_code == 0, answer.output
    videos = sorted(path.name for path in (home / "outputs").iterdir())
    assert videos == ["0.mp4", "0.txt", "1.mp4", "1.txt"]


def test_in_a_batch_what_can_be_made_is_saved_and_the_rest_is_named(home):
    (home / "cut.png").write_bytes((home / "first.jpg").read_bytes()[:100])
    lines = [{"prompt": TRAM, "visual_input": name} for name in ("cut.png", "first.jpg")]
    (home / "batch.jsonl").write_text("\n".join(json.dumps(line) for line in lines))

    answer = worldloop(
        "generate video2world --model Tiny-Cosmos-1.0-Video2World --batch_input_path batch.jsonl"
    )
    assert answer.exit_code == 1
    assert "failed 0 at media: media file cut.png" in answer.output
    assert "Error: 1 of 2 clips failed, see above" in answer.output
    assert sorted(path.name for path in (home / "outputs").iterdir()) == ["1.mp4", "1.txt"]


def test_the_familys_negative_prompt_is_the_default(tmp_path):
    record = spec_of(tmp_path).requests[0]

    assert record["negative_prompt"] is None  # the job fills in the family's, and stores it
    assert family("cosmos1").negative_prompt.startswith("The video captures")


def test_every_field_of_what_is_wanted_has_a_flag():
    from orchestration.cosmos_cli import generate

    flags = {parameter.name for parameter in generate.commands["text2world"].params}
    flags.remove("camera_extrinsics_path")  # refused in words
    ours = {name for name in Wanted.__dataclass_fields__ if name not in ("kind", "offload")}
    assert ours <= flags
    assert replace(Wanted("text2world"), prompt="x").prompt == "x"
