"""The commands `worldloop models` and `worldloop generate`.

Their flags are those of the public Cosmos scripts, underscores and all; what is ours alone is
`--model`, `--profile`, `--tier`, `--control`, `--extend_to_frames` and the like.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, Self

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from orchestration.terminal import show_table
from worldloop.errors import MalformedRecordError

_console = Console()


class _ListFlags(click.Command):
    """Lets a flag take several words, as argparse does: `--model_sizes 7B 14B`."""

    lists: ClassVar[tuple[str, ...]] = ("--model_sizes", "--model_types")

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        spread: list[str] = []
        flag = ""
        for word in args:
            if word.startswith("-"):
                flag = word if word in self.lists else ""
                spread += [] if flag else [word]
            else:
                spread += [flag, word] if flag else [word]
        return super().parse_args(ctx, spread)


@click.group()
def models() -> None:
    """World models: list, download, verify, or write a tiny one."""


def default_checkpoints() -> str:
    """The folder that the graph takes checkpoints from too."""
    from orchestration.deployments import checkpoints

    return str(checkpoints())


_CHECKPOINT_DIR = click.option(
    "--checkpoint_dir",
    default=default_checkpoints,
    show_default="checkpoints in the home, or WORLDLOOP_CHECKPOINTS",
    help="Folder of all model folders.",
)


@models.command("list")
@click.option("--family", help="Only this family.")
@click.option("--all", "every", is_flag=True, help="Also other resolutions and stages of a model.")
@_CHECKPOINT_DIR
def models_list(family: str | None, every: bool, checkpoint_dir: str) -> None:
    """Say which models there are, what each can do, and which are here."""
    from orchestration.models import state_of
    from resources.model_hub import ModelHub
    from worldloop.cosmos.families import family as family_of
    from worldloop.cosmos.models import MODELS

    if family:
        family_of(family)
    hub = ModelHub(checkpoint_dir=checkpoint_dir)
    table = Table(box=None, pad_edge=False)
    for name in ("model", "family", "B", "does", "licence", "GB", "here"):
        table.add_column(
            name, no_wrap=name != "does", justify="right" if name in ("B", "GB") else "left"
        )
    for one in MODELS.values():
        if (family and one.family != family) or (one.variant and not every):
            continue
        table.add_row(
            one.name,
            one.family,
            f"{one.params_b:g}",
            ", ".join(one.all_tasks),
            one.licence,
            f"{one.size_gb:.0f}" if not one.tiny else "",
            state_of(hub, one),
        )
    show_table(table)


@models.command("download", cls=_ListFlags)
@click.argument("names", nargs=-1)
@click.option("--model_sizes", multiple=True, help="7B 14B, 0.6B 2B 14B, or Edge Nano Super.")
@click.option("--model_types", multiple=True, help="Text2World Video2World Text2Image ...")
@click.option("--family", default="", help="cosmos1, predict1, predict2, predict2.5, ...")
@click.option(
    "--layout", type=click.Choice(["diffusers", "original"]), help="Where a model has both."
)
@click.option("--revision", default="", help="Commit or branch of the first folder.")
@click.option("--guardrail", "guardrail_only", is_flag=True, help="Only the guardrail folders.")
@click.option("--no-guardrail", is_flag=True, help="Without the guardrail folders.")
@click.option("--no-upsampler", is_flag=True, help="Without prompt upsamplers.")
@click.option("--dry-run", is_flag=True, help="Only say what would come.")
@click.option("--endpoint", default="", help="Another hub's address.")
@_CHECKPOINT_DIR
def models_download(
    names: tuple[str, ...],
    model_sizes: tuple[str, ...],
    model_types: tuple[str, ...],
    family: str,
    layout: Any,
    revision: str,
    guardrail_only: bool,
    no_guardrail: bool,
    no_upsampler: bool,
    dry_run: bool,
    endpoint: str,
    checkpoint_dir: str,
) -> None:
    """Download models, by NAMES or by size and type, with all that they need.

    A stopped download goes on where it was. Licences are accepted on the models' pages, with the
    account whose token `hf auth login` knows.
    """
    from orchestration.models import download_all, folders_to_download
    from resources.model_hub import ModelHub, source

    folders = folders_to_download(
        names,
        sizes=model_sizes,
        types=model_types,
        line=family,
        layout=layout,
        guardrail_only=guardrail_only,
        guardrail=not no_guardrail,
        upsampler=not no_upsampler,
    )
    if dry_run:
        for name in folders:
            wanted = source(name)
            click.echo(
                f"{name}: {wanted.repo_id} at {wanted.revision[:12]}, about {wanted.size_gb:.1f} GB, "
                f"{wanted.licence}{f', to be accepted on {wanted.page}' if wanted.gated else ''}"
            )
        total_gb = sum(source(name).size_gb for name in folders)
        click.echo(f"Together about {total_gb:.0f} GB.")
        return
    hub = ModelHub(checkpoint_dir=checkpoint_dir, endpoint=endpoint)
    done, failed = download_all(
        hub,
        folders,
        layout=layout,
        revision=revision,
        on_start=lambda name: click.echo(f"{name} ..."),
    )
    for one in done:
        click.echo(
            f"{one.name}: {one.num_files} files, {one.size_bytes / 1e9:.2f} GB at {one.commit[:12]}"
        )
    if failed:
        raise click.ClickException("\n".join(str(error) for _, error in failed))


@models.command("verify")
@click.argument("names", nargs=-1)
@click.option("--deep", is_flag=True, help="Hash contents, not only sizes.")
@_CHECKPOINT_DIR
def models_verify(names: tuple[str, ...], deep: bool, checkpoint_dir: str) -> None:
    """Say what is missing in NAMES, or in everything that was downloaded."""
    from resources.model_hub import ModelHub

    hub = ModelHub(checkpoint_dir=checkpoint_dir)
    asked = names or tuple(hub.locked())
    if not asked:
        raise click.ClickException(
            f"Nothing was downloaded to {checkpoint_dir} yet. See `worldloop models download --help`."
        )
    faults = [fault for name in asked for fault in hub.verify(name, deep=deep)]
    if faults:
        raise click.ClickException("\n".join(faults))
    click.echo(f"{', '.join(asked)}: nothing is missing.")


@models.command("tiny")
@click.argument("name")
@_CHECKPOINT_DIR
def models_tiny(name: str, checkpoint_dir: str) -> None:
    """Write the tiny model NAME: random weights in the real layout, for tests and first steps."""
    from orchestration.models import write_tiny

    with _console.status(f"writing {name}"):
        folder = write_tiny(name, Path(checkpoint_dir))
    click.echo(folder)


@click.group()
def generate() -> None:
    """Generate clips with a world model: NAME.mp4 beside NAME.txt."""


_OFFLOAD_HELP = "It leaves the GPU when it is not needed."
_FLAGS: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (("--prompt",), {"default": "", "help": "What to show."}),
    (("--negative_prompt",), {"help": "What to lead away from; the family's full default else."}),
    (
        ("--input_image_or_video_path", "--conditioned_image_or_video_path", "input_path"),
        {"default": "", "help": "Picture (png, jpg, jpeg) or video to go on from."},
    ),
    (("--num_input_frames",), {"default": 1, "show_default": True, "help": "Of it: 1, 5 or 9."}),
    (
        ("--batch_input_path",),
        {"default": "", "help": "JSONL with prompt and visual_input a line."},
    ),
    (("--subject_name",), {"default": "", "help": "Subject of a post-trained model."}),
    (("--num_steps",), {"type": int, "help": "Denoising steps."}),
    (("--guidance",), {"type": float, "help": "Guidance scale."}),
    (("--sampler",), {"default": "", "help": "RES, edm_euler ...; the family's first else."}),
    (("--seed",), {"type": int, "help": "Of the initial noise."}),
    (("--fps",), {"type": int, "help": "Frames per second."}),
    (("--height",), {"type": int, "help": "Pixels."}),
    (("--width",), {"type": int, "help": "Pixels."}),
    (("--num_video_frames",), {"type": int, "help": "Length of the clip."}),
    (("--tier",), {"default": "", "help": "draft, standard or hero: shape and profile in one."}),
    (("--profile",), {"default": "", "help": "Speed profile; exact else."}),
    (("--video_save_name",), {"default": "output", "show_default": True}),
    (("--video_save_folder",), {"default": "outputs", "show_default": True}),
    (("--video_save_path",), {"default": "", "help": "Folder, name and .mp4 in one."}),
    (("--model",), {"default": "", "help": "A name of `worldloop models list`."}),
    (
        ("--checkpoint_dir", "--cosmos_assets_dir", "checkpoint_dir"),
        {
            "default": default_checkpoints,
            "show_default": "checkpoints in the home, or WORLDLOOP_CHECKPOINTS",
            "help": "Folder of all model folders.",
        },
    ),
    (
        ("--diffusion_transformer_dir",),
        {"default": "", "help": "A model, or post-trained weights in the checkpoint folder."},
    ),
    (("--nemo_checkpoint",), {"default": "", "help": "Folder of post-trained weights anywhere."}),
    (
        ("--tokenizer_dir",),
        {"default": "", "help": "Only the model's own; for the guides' commands."},
    ),
    (("--prompt_upsampler_dir",), {"default": "", "help": "Upsampler in the checkpoint folder."}),
    (
        ("--disable_prompt_upsampler/--enable_prompt_upsampler",),
        {"default": False, "help": "Take prompts as they are."},
    ),
    (
        ("--word_limit_to_skip_upsampler",),
        {"type": int, "help": "Longer prompts are taken as they are."},
    ),
    (
        ("--accept_failed_gate",),
        {"is_flag": True, "help": "Use a speed profile that failed its quality gate."},
    ),
    (
        ("--disable_guardrail",),
        {"is_flag": True, "help": "From Predict2 on; the clip is marked unguarded."},
    ),
    (("--offload_prompt_upsampler",), {"is_flag": True, "help": _OFFLOAD_HELP}),
    (("--offload_guardrail_models",), {"is_flag": True, "help": _OFFLOAD_HELP}),
    (("--offload_text_encoder_model",), {"is_flag": True, "help": _OFFLOAD_HELP}),
    (("--offload_tokenizer",), {"is_flag": True, "help": _OFFLOAD_HELP}),
    (("--offload_diffusion_transformer",), {"is_flag": True, "help": _OFFLOAD_HELP}),
    (("--memory_cap_gb",), {"default": 0.0, "help": "Stay within so much GPU memory."}),
    (
        ("--num_gpus", "--num_devices", "num_devices"),
        {"default": 1, "show_default": True, "help": "GPUs that work on one clip."},
    ),
    (("--cp_size",), {"default": 0, "help": "Context-parallel ranks; must be the number of GPUs."}),
    (
        ("--control", "controls"),
        {"multiple": True, "help": "KIND or KIND=PATH: edge, blur, depth, seg; repeat for more."},
    ),
    (("--control_weight",), {"default": 1.0, "show_default": True}),
    (("--ctrl_model_dir",), {"default": "", "help": "Folder of the control model."}),
    (("--lora", "loras"), {"multiple": True, "help": "Folder of a LoRA adapter; repeat for more."}),
    (("--lora_weight",), {"default": 1.0, "show_default": True}),
    (
        ("--extend_to_frames",),
        {"default": 0, "help": "Go on from the last frames up to this length."},
    ),
    (("--enable_sound",), {"is_flag": True, "help": "With a sound track (Cosmos 3)."}),
    (("--camera_extrinsics_path",), {"default": "", "hidden": True}),  # refused in clear words
)


def _add_kind(kind: str, summary: str) -> None:
    def run(**flags: Any) -> None:
        _generate(kind, flags)

    run.__doc__ = summary
    command: Callable[..., None] = run
    for names, settings in reversed(_FLAGS):
        command = click.option(*names, **settings)(command)
    generate.command(kind)(command)


_add_kind("text2world", "Video from words.")
_add_kind("video2world", "Video that goes on from a picture or video.")
_add_kind("text2image", "A picture from words, as a video of one frame.")
_add_kind("control2world", "Video that follows edges, blur, depth or segmentation.")


def _generate(kind: str, flags: dict[str, Any]) -> None:
    from gpu_jobs.cosmos_generate.spec import CosmosGenerateSpec
    from orchestration.deployments import home
    from orchestration.doctor import num_gpus
    from orchestration.generate import build_spec
    from orchestration.spec_runs import check_ready, run_spec
    from orchestration.wanted_clips import OFFLOAD_FLAGS, Wanted
    from resources.model_hub import ModelHub

    camera = flags.pop("camera_extrinsics_path")
    if camera:
        raise MalformedRecordError(
            "--camera_extrinsics_path",
            camera,
            "a model of Cosmos 3, which takes a camera track as actions; Cosmos 1.0 has none published",
            "Leave it out.",
        )
    asked = [part for flag, part in OFFLOAD_FLAGS.items() if flags.pop(flag)]
    known = {field.name for field in fields(Wanted)}
    assert known >= set(flags), set(flags) - known
    wanted = Wanted(kind=kind, offload=tuple(asked) or None, **flags)  # type: ignore[arg-type]
    hub = ModelHub(checkpoint_dir=wanted.checkpoint_dir)
    spec: CosmosGenerateSpec = build_spec(
        wanted, scratch=home() / "scratch" / "generate", revision=hub.revision
    )
    check_ready(spec, num_devices=wanted.num_devices, num_gpus=num_gpus())
    _say_what_runs(spec)
    try:
        with _Teller(len(spec.requests)) as teller:
            outcome = run_spec(
                spec,
                num_devices=wanted.num_devices,
                log=home() / "generate.log",
                on_event=teller.tell,
            )
    except KeyboardInterrupt:
        raise click.ClickException(
            "Interrupted. Finished clips are kept: run the same command again to go on."
        ) from None
    for path in outcome.saved:
        click.echo(path)
    for name, guard, reason in outcome.blocked:
        if name not in teller.told:
            click.echo(f"blocked {name} by the guard {guard}: {reason}")
    failed, total = outcome.failures, len(spec.requests)
    if failed and total == 1:
        _, stage, reason = failed[0]
        raise click.ClickException(f"{reason} (at {stage})")
    if failed:
        raise click.ClickException(
            f"{len(failed)} of {total} clips failed, see above. The same command tries them again."
        )


def _say_what_runs(spec: Any) -> None:
    shape, count = spec.shape, len(spec.requests)
    guards = [*spec.guards.get("text", ()), *spec.guards.get("video", ())]
    frames = f"clip{'s' * (count > 1)} of {spec.extend_to_frames or shape['num_frames']} frames"
    what = frames if shape["num_frames"] > 1 else f"picture{'s' * (count > 1)}"
    click.echo(
        f"{spec.model}: {count} {what}, "
        f"{shape['width_px']}x{shape['height_px']} at {shape['rate_fps']} fps, {spec.num_steps} steps, guidance "
        f"{spec.guidance:g}, {spec.sampler}, profile {spec.profile['name']}, "
        f"{'guarded by ' + ', '.join(guards) if guards else 'unguarded'}"
    )


class _Teller:
    """Says what becomes of each clip, above a bar that shows how many are done."""

    def __init__(self, total: int) -> None:
        self.total, self.told = total, set[str]()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=_console,
            transient=True,
        )
        self._task = self._bar.add_task("reading inputs and weights", total=total)

    def __enter__(self) -> Self:
        if _console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if _console.is_terminal:
            self._bar.stop()

    def tell(self, event: Mapping[str, Any]) -> None:
        """One line a clip, as soon as it is known; a single clip that fails ends as the error."""
        name, kind = event.get("recipe_id", ""), event["event"]
        if kind == "profile_applied":
            self._bar.update(self._task, description="generating")
            return
        if kind == "recovered":
            self._say(f"[yellow]recovered[/] {escape(str(event.get('how', '')))}")
            return
        words = _words_of(event)
        if not words:
            return
        self.told.add(name)
        self._bar.advance(self._task)
        if kind != "clip_failed" or self.total > 1:
            self._say(words)

    def _say(self, words: str) -> None:
        _console.print(words, soft_wrap=True)


def _words_of(event: Mapping[str, Any]) -> str:
    """What became of a clip; empty if the event is about none."""
    name, reason = escape(event.get("recipe_id", "")), escape(event.get("reason", ""))
    if event["event"] == "clip_done":
        speed = f"{event.get('ms_per_step', 0):.0f} ms a step"
        memory = event.get("peak_gpu_gb")
        on_gpu = f", {event.get('tflops', 0):.0f} TFLOP/s, {memory:.1f} GB" if memory else ""
        return f"[green]done[/] {name}: {speed}{on_gpu}, {escape(event.get('guardrail', ''))}"
    if event["event"] == "clip_blocked":
        return f"[yellow]blocked[/] {name} by the guard {event.get('guard', '')}: {reason}"
    if event["event"] == "clip_failed":
        return f"[red]failed[/] {name} at {event.get('stage', '')}: {reason}"
    return ""
