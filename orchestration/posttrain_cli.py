"""The commands `worldloop posttrain` and `worldloop embeddings`: post-training on a user's own folder.

The folder, its settings and what is written are those of the published post-training guides
(`--dataset_dir`, `num_frames`, `video_size`, `${OUTPUT_ROOT}/PROJECT/GROUP/NAME/checkpoints`).
"""

import inspect
import json
import signal
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Self

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from orchestration.cosmos_cli import default_checkpoints
from orchestration.job_runs import job_command, watch
from worldloop.cosmos.families import ClipShape
from worldloop.errors import JobFailedError, MalformedRecordError, UnknownKeyError
from worldloop.federation.rounds import PRECISIONS, Training

_console = Console()
_JOB, _EMBEDDINGS_JOB = "gpu_jobs.posttrain.job", "gpu_jobs.posttrain.pickles"
_GO_ON = "The state is kept: run the same command again, and it goes on at its last saved step."
RECIPES = (
    "predict1_video2world_lora",
    "predict1_video2world_full",
    "predict2_video2world_lora",
    "predict25_lora",
    "cosmos3_nano",
    "cosmos3_edge",
    "cosmos3_super_lora",
    "tiny",
)
"""Functions of `gpu_jobs.posttrain.recipes`."""

_CHECKPOINT_DIR: dict[str, Any] = {
    "default": default_checkpoints,
    "show_default": "checkpoints in the home, or WORLDLOOP_CHECKPOINTS",
    "help": "Folder of all model folders.",
}
_TRAINING_FLAGS: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (("--sequence_interval",), {"type": int, "help": "Every so-manieth frame makes a window."}),
    (
        ("--start_frame_interval",),
        {"type": int, "help": "Frames between windows; 1 as in the guides, 0 side by side."},
    ),
    (("--steps", "num_steps"), {"type": int, "help": "Optimizer steps."}),
    (("--batch_size",), {"type": int, "help": "Windows of a step, over all GPUs."}),
    (("--rank",), {"type": int, "help": "Of the adapter."}),
    (("--alpha",), {"type": float, "help": "The adapter's scale is alpha / rank."}),
    (("--first_blocks",), {"type": int, "help": "Adapt so many leading blocks; 0 all."}),
    (("--learning_rate",), {"type": float, "help": "Peak of AdamW."}),
    (("--warmup_steps",), {"type": int, "help": "Steps of linear warm-up."}),
    (("--cosine_steps",), {"type": int, "help": "Steps to a learning rate of 0; 0: it stays."}),
    (("--weight_decay",), {"type": float, "help": "Of AdamW."}),
    (("--ema_decay",), {"type": float, "help": "Of the averaged weights; 0: none."}),
    (("--ema_rate",), {"type": float, "help": "Of an average as Cosmos 3 has it; 0: none."}),
    (("--caption_dropout",), {"type": float, "help": "Share of windows without caption."}),
    (("--max_clips",), {"type": int, "help": "Train on so many videos; 0 all."}),
    (("--precision",), {"type": click.Choice(PRECISIONS)}),
    (
        ("--checkpoint_blocks/--keep_activations",),
        {"default": None, "help": "Compute activations again in the backward pass: less memory."},
    ),
    (
        ("--compile_blocks/--eager",),
        {"default": None, "help": "Compile blocks with torch.compile; on a GPU."},
    ),
)
_FLAGS: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (("--dataset_dir",), {"required": True, "help": "Folder with videos/, metas/, t5_xxl/."}),
    (
        ("--recipe",),
        {
            "type": click.Choice(RECIPES),
            "help": "Start from a published training; flags change it.",
        },
    ),
    (("--model",), {"default": "", "help": "A name of `worldloop models list`."}),
    (("--num_frames",), {"type": int, "help": "Frames of a window; the model's own else."}),
    (("--video_size",), {"type": int, "nargs": 2, "help": "Height and width of a window."}),
    (("--fps",), {"type": int, "help": "Frames per second that the model is told."}),
    (("--lora/--full", "is_lora"), {"default": None, "help": "An adapter, or all weights."}),
    (
        ("--targets",),
        {"multiple": True, "help": "Ends of adapted layers' names, e.g. attn1.to_q; repeat."},
    ),
    (
        ("--conditioning_frames",),
        {"type": int, "multiple": True, "help": "First frames a window may be given; repeat."},
    ),
    *_TRAINING_FLAGS,
    (("--seed",), {"default": 0, "show_default": True, "help": "Of start, order and noise."}),
    (("--start_adapter",), {"default": "", "help": "adapter.safetensors to go on from."}),
    (
        ("--diffusion_transformer_dir", "transformer_dir"),
        {"default": "", "help": "Post-trained weights in the checkpoint folder to go on from."},
    ),
    (
        ("--output_root",),
        {
            "default": "checkpoints",
            "show_default": True,
            "envvar": "OUTPUT_ROOT",
            "show_envvar": True,
            "help": "Checkpoints go to OUTPUT_ROOT/PROJECT/GROUP/NAME/checkpoints.",
        },
    ),
    (("--project",), {"default": "posttraining", "show_default": True}),
    (("--group",), {"default": "", "help": "The recipe's, or diffusion_<task> of the model."}),
    (("--name",), {"default": "", "help": "The recipe's, or the name of the dataset folder."}),
    (("--cache_dir",), {"default": "", "help": "Of encoded footage; cache in the dataset else."}),
    (("--max_s",), {"default": 0.0, "help": "End after so many seconds; 0: no limit."}),
    (("--device",), {"default": "auto", "show_default": True}),
    (("--num_gpus",), {"default": 1, "show_default": True, "help": "Processes under torchrun."}),
    (("--checkpoint_dir",), _CHECKPOINT_DIR),
)


def _with_flags(command: Callable[..., None]) -> Callable[..., None]:
    for names, settings in reversed(_FLAGS):
        command = click.option(*names, **settings)(command)
    return command


@click.command()
@_with_flags
def posttrain(num_gpus: int, **flags: Any) -> None:
    """Post-train a world model on your own videos.

    The folder is that of the published guides: videos/NAME.mp4 with captions in metas/NAME.txt, and
    perhaps t5_xxl/NAME.pickle (`worldloop embeddings` writes them; captions are encoded without).
    """
    spec = build_spec(flags, num_gpus=num_gpus)
    _check_ready(spec, num_gpus)
    training, shape = spec["training"], spec["training"]["shape"]
    click.echo(
        f"{spec['model']}: {training['mode']}, {training['num_steps']} steps of {training['batch_size']} windows, "
        f"{shape['num_frames']} frames of {shape['width_px']}x{shape['height_px']} at {shape['rate_fps']} fps"
    )
    folder = Path(spec["output_dir"]).parent
    with _Bar() as bar:
        report = _run(_JOB, spec, folder, num_gpus, bar)
    if not report.get("output_dir"):
        raise click.ClickException(
            f"There was no footage to train on in {flags['dataset_dir']!r}: every video was left out, see "
            f"{folder / 'posttrain.log'}."
        )
    click.echo(
        f"loss {report['loss_before']:.4f} -> {report['loss_after']:.4f} over {report['num_steps']} steps, "
        f"{report['num_windows']} windows of {report['num_clips']} videos, {report['train_s']:.0f} s"
    )
    for path in (*report.get("exports", ()), report["output_dir"]):
        click.echo(path)


@click.command()
@click.option("--dataset_dir", "--dataset_path", "dataset_dir", required=True, help="With videos/.")
@click.option("--prompt", default="", help="Caption of every video that has none in metas/.")
@click.option("--model", required=True, help="Whose T5 is used; see `worldloop models list`.")
@click.option("--overwrite", is_flag=True, help="Also those that stand already.")
@click.option("--device", default="auto", show_default=True)
@click.option("--checkpoint_dir", **_CHECKPOINT_DIR)
def embeddings(
    dataset_dir: str, prompt: str, model: str, overwrite: bool, device: str, checkpoint_dir: str
) -> None:
    """Write t5_xxl/NAME.pickle for the videos of a folder, as the published guides' scripts do."""
    spec = {
        "model": _model(model).name,
        "checkpoint_dir": str(Path(checkpoint_dir).absolute()),
        "footage_dir": str(_dataset(dataset_dir)),
        "prompt": prompt,
        "overwrite": overwrite,
        "device": device,
    }
    with _Bar() as bar:
        report = _run(_EMBEDDINGS_JOB, spec, Path(dataset_dir) / "cache", 1, bar)
    click.echo(
        f"{len(report['written'])} encodings written, {report['kept']} stood already, "
        f"{report['metas']} captions written from the prompt"
    )


def build_spec(flags: Mapping[str, Any], *, num_gpus: int = 1) -> dict[str, Any]:
    """The spec of a training from a recipe, or from a model's own shape, and flags that change it.

    Args:
        flags: Of `worldloop posttrain`; those that are None or empty change nothing.
        num_gpus: Processes; recipes whose processes do not share windows take one for each.

    Raises:
        MalformedRecordError: If neither a model nor a recipe is named, or there is no such folder.
        UnknownKeyError: If there is no such model.
    """
    recipe = _recipe(flags["recipe"], num_gpus) if flags["recipe"] else {}
    if not flags["model"] and not recipe:
        raise MalformedRecordError(
            "worldloop posttrain", "neither --model nor --recipe", "one of them", "Name one."
        )
    known = _model(flags["model"] or recipe["model"])
    training = recipe.get("training") or asdict(Training(shape=known.default_shape))
    training = _changed(training, flags)
    export = recipe.get("export") or {}
    dataset = _dataset(flags["dataset_dir"])
    names = {
        "project": flags["project"],
        "group": flags["group"] or export.get("group") or f"diffusion_{known.task}",
        "name": flags["name"] or export.get("name") or dataset.name,
        "root": str(Path(flags["output_root"]).absolute()),
    }
    folder = Path(names["root"], names["project"], names["group"], names["name"])
    adapter = flags["start_adapter"]
    return {
        "model": known.name,
        "revision": _revision(flags["checkpoint_dir"], known.name),
        "checkpoint_dir": str(Path(flags["checkpoint_dir"]).absolute()),
        "footage_dir": str(dataset),
        "output_dir": str(folder / "trained"),
        "training": training,
        "seed": flags["seed"],
        "start_adapter": str(Path(adapter).absolute()) if adapter else "",
        "transformer_dir": flags["transformer_dir"],
        "cache_dir": str(Path(flags["cache_dir"]).absolute()) if flags["cache_dir"] else "",
        "state_dir": str(folder / "state"),
        "export": names,
        "max_s": flags["max_s"],
        "device": flags["device"],
    }


def _changed(training: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """A training with what flags say."""
    known = {field.name for field in fields(Training)}
    changed = {**training, **{k: v for k, v in flags.items() if k in known and v not in (None, ())}}
    if flags["is_lora"] is not None:
        changed["mode"] = "lora" if flags["is_lora"] else "full"
    if flags["rank"] is not None and flags["alpha"] is None:
        changed["alpha"] = float(flags["rank"])  # a scale of 1, as the guides have it
    shape = ClipShape(**changed["shape"])
    height, width = flags["video_size"] or (shape.height_px, shape.width_px)
    shape = replace(
        shape,
        num_frames=flags["num_frames"] or shape.num_frames,
        height_px=height,
        width_px=width,
        rate_fps=flags["fps"] or shape.rate_fps,
    )
    return {**json.loads(json.dumps(changed)), "shape": asdict(shape)}


def _recipe(name: str, num_gpus: int) -> dict[str, Any]:
    from gpu_jobs.posttrain import recipes

    recipe = getattr(recipes, name)
    folders = {"footage_dir": "", "checkpoint_dir": "", "output_dir": ""}
    shared = {"num_gpus": num_gpus} if "num_gpus" in inspect.signature(recipe).parameters else {}
    return asdict(recipe(**folders, **shared))


def _model(name: str) -> Any:
    from worldloop.cosmos.models import MODELS, model

    if name not in MODELS:
        raise UnknownKeyError("model", name, MODELS)
    return model(name)


def _revision(checkpoint_dir: str, name: str) -> str:
    from resources.model_hub import ModelHub

    return ModelHub(checkpoint_dir=checkpoint_dir).revision(name)


def _dataset(path: str) -> Path:
    from gpu_jobs.posttrain.sft_dataset import DATASET_FILES, dataset_file

    folder = Path(path).absolute()
    if dataset_file(folder) is None and not (folder / "videos").is_dir():
        raise MalformedRecordError(
            f"--dataset_dir {path}",
            "no folder videos/ in it" if folder.is_dir() else "no such folder",
            f"a folder with videos/NAME.mp4 and metas/NAME.txt, or with {DATASET_FILES[0]}",
            "Put the videos there.",
        )
    return folder


def _check_ready(spec: Mapping[str, Any], num_gpus: int) -> None:
    """Refuse at once what this machine cannot run; tiny models run anywhere.

    Raises:
        MalformedRecordError: If the model's folder is missing.
        JobFailedError: If there are fewer GPUs than asked for.
    """
    from orchestration.doctor import num_gpus as count_gpus

    known, folder = _model(spec["model"]), Path(spec["checkpoint_dir"]) / spec["model"]
    if not folder.is_dir():
        kind = "tiny" if known.tiny else "download"
        raise MalformedRecordError(
            f"checkpoints in {spec['checkpoint_dir']}",
            f"no {known.name}",
            "the folder of the model",
            f"Run: worldloop models {kind} {known.name}",
        )
    there = count_gpus()
    if not known.tiny and there < num_gpus:
        raise JobFailedError(
            f"{known.name} is asked to train on {num_gpus} GPU{'s' * (num_gpus > 1)}; this machine shows "
            f"{there or 'none'}. Without one, train a tiny model: --recipe tiny."
        )


class _Bar:
    """How far the job is."""

    def __init__(self) -> None:
        self.step, self.of = 0, 0
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=_console,
            transient=True,
        )
        self._task = self._bar.add_task("loading", total=None)

    def __enter__(self) -> Self:
        if _console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if _console.is_terminal:
            self._bar.stop()

    def tell(self, event: Mapping[str, Any]) -> None:
        """Move on with an event of the job."""
        kind = event.get("event")
        if kind == "encoding":
            self._move("encoding footage", event["done"], event["of"])
        elif kind == "embedding":
            self._move("encoding captions", event["done"], event["of"])
        elif kind in ("step", "training"):
            self.step, self.of = event["step"], event["of"]
            loss = f", loss {event['loss']:.4f}" if "loss" in event else ""
            self._move(f"training{loss}", self.step, self.of)
        elif kind == "video_left_out":
            _console.print(f"left out {event.get('video')}: {event.get('reason')}", markup=False)

    def _move(self, what: str, done: int, total: int) -> None:
        self._bar.update(self._task, description=what, completed=done, total=total)


def _run(
    job: str, spec: Mapping[str, Any], folder: Path, num_gpus: int, bar: _Bar
) -> Mapping[str, Any]:
    """Run a job to its end and answer with its report; what it says goes to a log in `folder`.

    Raises:
        click.ClickException: If it was interrupted.
        JobFailedError: If it ended with an error; in its own words.
    """
    folder.mkdir(parents=True, exist_ok=True)
    spec_path, log = folder / f"{job.rpartition('.')[2]}.spec.json", folder / "posttrain.log"
    spec_path.write_text(json.dumps(spec, indent=1), encoding="utf-8")
    try:
        words, report, code = watch(job_command(job, spec_path, num_gpus), log, bar.tell)
    except KeyboardInterrupt:
        at = f" at step {bar.step} of {bar.of}" if bar.of else ""
        raise click.ClickException(f"Interrupted{at}. {_GO_ON}") from None
    if code or report is None:
        silence = f"The job ended with exit code {code} and no report"
        if code == -signal.SIGKILL:
            silence = "The job was killed, most likely because the machine ran out of memory"
        raise JobFailedError(f"{(words or silence).rstrip('.')}. Details: {log}")
    return report
