"""The command line `worldloop`: everything that a person does outside the UI."""

import functools
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from orchestration.atlas_cli import atlas
from orchestration.catalog_cli import catalog
from orchestration.cosmos_cli import default_checkpoints, generate, models
from orchestration.posttrain_cli import embeddings, posttrain
from orchestration.rounds_cli import rounds
from orchestration.terminal import show_table
from worldloop import __version__
from worldloop.errors import WorldloopError

_console = Console()


class _OneClearError(click.Group):
    """Shows deliberate errors as one line, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except WorldloopError as error:
            raise click.ClickException(str(error)) from error


@click.group(
    cls=_OneClearError,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__)
def main() -> None:
    """Endless localized synthetic footage, from the atlas to a release."""


main.add_command(atlas)
main.add_command(catalog)
main.add_command(generate)
main.add_command(models)
main.add_command(posttrain)
main.add_command(embeddings)
main.add_command(rounds)


@main.command()
def init() -> None:
    """Lay out the home folder: data, Dagster instance, settings."""
    from orchestration.deployments import home
    from orchestration.instance import lay_out_instance

    lay_out_instance()
    click.echo(f"Home is {home()} (set WORLDLOOP_HOME to move it)")


_WAVE_OPTIONS: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (
        ("--place", "places"),
        {
            "multiple": True,
            "help": "A place such as tokyo/zoo, see `worldloop atlas list`; repeat for more.",
        },
    ),
    (
        ("--clips", "clips_per_place"),
        {
            "type": click.IntRange(min=1),
            "default": 3,
            "show_default": True,
            "help": "Clips a place.",
        },
    ),
    (
        ("--frames", "num_frames"),
        {"default": 0, "help": "Frames a clip; left out, 61 or those of the world model."},
    ),
    (
        ("--world-model", "world_model"),
        {"default": "", "help": "Also make clips with this model, see `worldloop models list`."},
    ),
    (("--tier",), {"default": "draft", "show_default": True, "help": "Tier of the world model."}),
    (("--profile",), {"default": "", "help": "Speed profile; left out, the tier's."}),
    (
        ("--control",),
        {"multiple": True, "help": "What it takes from the sketch: depth, seg, first_frames ..."},
    ),
    (
        ("--allow-unguarded", "allow_unguarded"),
        {"is_flag": True, "help": "Release unguarded clips and those of tiny models."},
    ),
)


_OF_WORLD_MODELS = ("tier", "profile", "control", "allow_unguarded")


def _wave_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that plan a wave; the command gets them as `plan`."""

    @functools.wraps(command)
    def with_plan(**asked: Any) -> None:
        _refuse_unused(asked["world_model"])
        plan = {**asked, "places": list(asked["places"]), "control": list(asked["control"])}
        command(plan)

    options: Callable[..., None] = with_plan
    for names, settings in reversed(_WAVE_OPTIONS):
        options = click.option(*names, **settings)(options)
    return options


def _refuse_unused(world_model: str) -> None:
    """What only a world model would heed is not ignored in silence."""
    context = click.get_current_context()
    unused = [
        "--" + name.replace("_", "-")
        for name in _OF_WORLD_MODELS
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
    ]
    if unused and not world_model:
        raise click.UsageError(
            f"{', '.join(unused)} without --world-model: name a model, see `worldloop models list`."
        )


@main.command()
@_wave_options
def run(plan: dict[str, Any]) -> None:
    """Carry one wave from the atlas to a release, and say where to look.

    Without --place it has five places of five cities. A wave that an earlier run left open goes on as it was planned.
    """
    from orchestration.deployments import home, resources
    from orchestration.instance import open_instance

    instance = open_instance()
    from orchestration.main_job import SHOWCASE, Step, build_marts, carry_wave, check_plan
    from orchestration.terminal import chatter_in
    from sensors.wave_conductor import open_waves

    store, log = resources()["store"], home() / "run.log"
    started = time.perf_counter()
    plan["places"] = plan["places"] or list(SHOWCASE)
    check_plan(plan)
    if unfinished := open_waves(instance):
        click.echo(
            f"{unfinished[0]} is open and goes on as it was planned; run again for another wave."
        )
    try:
        with chatter_in(log) as terminal, _progress(terminal) as progress:
            task = progress.add_task("starting", total=None)

            def on_step(step: Step, number: int, total: int) -> None:
                progress.update(task, description=step.title, completed=number, total=total)

            outcome = carry_wave(instance, store, plan, on_step=on_step)
            progress.update(task, description="building the marts")
            marts_built = build_marts(instance)
            progress.update(task, description=f"wave {outcome.wave}", completed=1, total=1)
    except KeyboardInterrupt:
        raise click.ClickException(
            "Interrupted. Nothing is lost: run the same command again, and the wave goes on after "
            "its last finished clip."
        ) from None
    _report(outcome.wave, outcome.failed, marts_built, time.perf_counter() - started)


def _pack_locations(wave: str) -> list[str]:
    """Where the packs of a wave lie: at the homes of its cities; nowhere if it was not planned."""
    from orchestration.deployments import federation, resources
    from resources.wave_plans import read_plan
    from worldloop import layout

    sites, store = federation(), resources()["store"]
    if not store.exists(layout.plan_key(wave)):
        return []
    homes = sites.homes_of(read_plan(store, wave).cities)
    return [f"{sites.store(name).url}/{layout.PACKS}/{wave}" for name in homes]


def _report(wave: str, failed: tuple[str, ...], marts_built: bool, wall_s: float) -> None:
    from orchestration.deployments import home, site_root
    from resources.site_store import SiteStore
    from resources.tables import read_record
    from worldloop import layout

    root, store = site_root(), SiteStore(url=str(site_root()))
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    if store.exists(layout.release_key(wave)):
        release = read_record(store, layout.release_key(wave))
        table.add_row(
            "release",
            f"{wave}: {release['num_clips']} clips, {release['duration_s']:.1f} s of footage",
        )
        table.add_row("root hash", release["root_hash"])
        table.add_row("rejected", str(release["num_rejected"]))
    table.add_row("gallery", str(root / layout.GALLERY / "index.html"))
    table.add_row("coverage", str(root / layout.COVERAGE / "index.html"))
    for location in _pack_locations(wave):
        table.add_row("packs", location)
    table.add_row("marts", str(home() / "marts.duckdb") if marts_built else "not built, see the UI")
    table.add_row("details", str(home() / "run.log"))
    table.add_row("catalogs", "worldloop catalog update (make dev does it by itself)")
    table.add_row("UI", "make dev, then http://127.0.0.1:3000")
    table.add_row("search", 'worldloop search "rainy night street"')
    table.add_row("time", f"{wall_s:.0f} s")
    show_table(table)
    if failed:
        released = store.exists(layout.release_key(wave))
        remedy = (
            "The wave closed without them: look at their runs with `make dev`, and materialise what "
            "is missing there."
            if released
            else "The wave is still open: look at their runs with `make dev`, then run the same command "
            "again to go on."
        )
        raise click.ClickException(f"These steps failed: {', '.join(failed)}. {remedy}")


@main.command()
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=3000,
    show_default=True,
    help="Where the UI listens.",
)
def dev(port: int) -> None:
    """Serve the Dagster UI with daemon and sensors, on the loopback address only."""
    from orchestration.instance import open_instance

    open_instance()
    # A shell starts background commands with SIGINT ignored, which every child inherits: then
    # neither Ctrl-C nor a termination from the UI would reach the run workers.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    workspace = Path(__file__).resolve().parent.parent / "workspace.yaml"
    command = ["dagster", "dev", "-h", "127.0.0.1", "-p", str(port), "-w", str(workspace)]
    os.execv(str(Path(sys.executable).with_name("dagster")), command)


@main.command("site-agent")
@click.option("--site", required=True, help="Name of the site in sites.toml.")
@click.option("--once", is_flag=True, help="Look once, do what is due, end.")
@click.option("--poll-s", default=10.0, show_default=True, help="Seconds between two looks.")
def site_agent(site: str, poll_s: float, *, once: bool) -> None:
    """Carry a site through open rounds of training, without Dagster."""
    command = [sys.executable, "-m", "orchestration.site_agent", "--site", site]
    command += ["--poll-s", str(poll_s), *(["--once"] if once else [])]
    os.execv(sys.executable, command)  # the command line alone would double the memory


@main.command()
@click.argument("place")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=1,
    show_default=True,
    help="Another one gives another scene.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    default=Path("preview.mp4"),
    show_default=True,
    help="The mp4 to write.",
)
@click.option(
    "--frames",
    type=click.IntRange(1, 10_000),
    default=121,
    show_default=True,
    help="Length of the clip; 24 are a second.",
)
@click.option("--size", default="256x144", show_default=True, help="Width x height, even numbers.")
def preview(place: str, seed: int, output: Path, frames: int, size: str) -> None:
    """Render one clip of PLACE (tokyo/zoo) to an mp4."""
    from orchestration.preview import render_preview
    from worldloop.recipes import Shape

    width, _, height = size.partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise click.BadParameter(
            f"{size!r} is not a size; write it like 256x144", param_hint="--size"
        )
    shape = Shape(num_frames=frames, width_px=int(width), height_px=int(height))
    try:
        with _console.status(f"rendering {place}, seed {seed}"):
            recipe = render_preview(place, seed=seed, shape=shape, output=output)
    except OSError as error:
        raise click.ClickException(
            f"{str(output)!r} cannot be written: {error}. Name another file with --output."
        ) from error
    scene = recipe.scene
    click.echo(
        f"{output}: {place}, {scene.date} {scene.hour:05.2f} h, {scene.weather}, recipe {recipe.recipe_id}"
    )


def _some_words(context: click.Context, parameter: click.Parameter, text: str) -> str:
    if not text.strip():
        raise click.BadParameter("write what to look for, such as 'rainy night street'")
    return text


@main.command()
@click.argument("text", callback=_some_words)
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="At most so many clips.",
)
@click.option("--where", help="SQL filter, e.g. \"city = 'tokyo' and daypart = 'night'\".")
@click.option(
    "--extract",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write the found mp4 files into this folder.",
)
@click.option(
    "--site", default="", help="A site, or `all`: one search over every site that answers."
)
@click.option("--words", is_flag=True, help="Look for the words in captions, not in pictures.")
def search(
    text: str, limit: int, where: str | None, extract: Path | None, site: str, *, words: bool
) -> None:
    """Find clips by what they show: worldloop search "rainy night street".

    TEXT is compared with what the clips show; --words looks for it in their captions instead.
    """
    from orchestration.deployments import federation
    from orchestration.search import (
        extract_videos,
        find_captions,
        find_clips,
        find_clips_everywhere,
        partial_answer,
    )

    if words and site:
        raise click.BadParameter(
            "captions stay at their site: leave out --site", param_hint="--words"
        )
    if site:
        with _console.status("asking every site" if site == "all" else f"asking {site}"):
            answer = find_clips_everywhere(
                text, federation=federation(), limit=limit, where=where, site=site
            )
        _show_everywhere(answer)
        if missing := partial_answer(answer):
            click.echo(missing)
        if extract is not None:
            for path in extract_videos(answer.rows.drop_nulls("rgb_offset"), extract):
                click.echo(path)
        return
    with _console.status("reading captions" if words else "embedding the query"):
        find = find_captions if words else find_clips
        found = find(text, limit=limit, where=where)
    if found.is_empty():
        click.echo(_nothing_found(text, where, words=words))
        return
    table = Table(box=None, pad_edge=False)
    widths = {"score": 5, "place": 24, "when": 9, "weather": 7, "clip": 8}
    for name, width in widths.items():
        table.add_column(name, width=width, no_wrap=True)
    table.add_column("caption")
    for row in found.iter_rows(named=True):
        place = f"{row['city']}/{row['institution']}"
        score = f"{row['score']:.3f}"
        table.add_row(
            score, place, row["daypart"], row["weather"], row["recipe_id"][:8], row["caption"]
        )
    show_table(table)
    if extract is not None:
        for path in extract_videos(found, extract):
            click.echo(path)


def _nothing_found(text: str, where: str | None, *, words: bool) -> str:
    """What to try when a search has no answer."""
    asked = f"has {text!r} in its caption" if words else "is there"
    said = f"No clip {asked}{f' with {where}' if where else ''}."
    ways = ["leave out --words to search by what clips show"] if words else []
    ways += ["leave out --where"] if where else []
    return f"{said} {' or '.join(ways).capitalize()}." if ways else said


def _show_everywhere(answer: Any) -> None:
    """What every site that answered found; captions stay where their clips are at home."""
    table = Table("score", "site", "place", "when", "weather", "clip", box=None, pad_edge=False)
    for row in answer.rows.iter_rows(named=True):
        place = f"{row['city']}/{row['institution']}"
        facts = (row["site"], place, row["daypart"], row["weather"], row["recipe_id"][:8])
        table.add_row(f"{row['score']:.3f}", *(str(fact or "-") for fact in facts))
    show_table(table)


@main.command()
@click.option(
    "--gpu-gb",
    type=click.FloatRange(min=0),
    help="Ask for another card than this machine's; 0 for none.",
)
@click.option("--checkpoint_dir", default=default_checkpoints, help="Folder of model folders.")
def doctor(gpu_gb: float | None, checkpoint_dir: str) -> None:
    """Say what this machine can run, what is missing, and how to get it."""
    from orchestration.deployments import home
    from orchestration.doctor import examine, examine_cosmos, gpu_asked, this_gpu

    findings = [*examine(home()), *examine_cosmos(Path(checkpoint_dir))]
    table = Table("", "what", "found", "what to do")
    marks = {"ok": "[green]ok[/]", "missing": "[red]missing[/]", "optional": "[yellow]optional[/]"}
    for finding in findings:
        table.add_row(marks[finding.state], finding.name, finding.found, escape(finding.remedy))
    show_table(table)
    _print_outlook(this_gpu() if gpu_gb is None else gpu_asked(gpu_gb), Path(checkpoint_dir))
    if any(finding.state == "missing" for finding in findings):
        raise click.ClickException("Something that the default path needs is missing, see above.")


def _print_outlook(card: Any, checkpoint_dir: Path) -> None:
    """World models on a card, or what is left without one."""
    from orchestration.doctor import by_model, needs_of, refused_profiles, tiny_models, world_models
    from worldloop.cosmos.outlook import SHOWN_PROFILES
    from worldloop.cosmos.tiers import LADDER

    if card is None:
        names = ", ".join(one.name for one in tiny_models())
        click.echo(
            f"World models without a GPU: only the tiny ones, for tests: {names}. Ask for a card with --gpu-gb 24."
        )
        return
    rows = world_models(card)
    scaled = any(time.estimated for row in rows for time in row.seconds.values())
    click.echo(
        f"World models on {card.name} with {card.memory_gb:.0f} GB, guards included. Seconds a clip are estimated "
        f"from rates measured on one H200{', scaled by peak bf16' if scaled else ''}: of the model's own clip by "
        "profile, and of each tier with its profile. Peak memory is an estimate too. FP8 attention needs the extra te."
    )
    table = Table("model", "weights", "on the GPU", "GB", "own clip", box=None)
    for name in (*SHOWN_PROFILES, *LADDER):
        table.add_column(name, justify="right")
    for model, looks in by_model(rows).items():
        runs = next((look for look in looks.values() if look.runs), None)
        if runs is None:
            continue
        shape, own = looks[""].shape, looks[""].seconds
        tiers = [looks[tier].seconds if tier in looks else {} for tier in LADDER]
        table.add_row(
            model,
            "here" if (checkpoint_dir / model).is_dir() else "-",
            runs.plan.summary,
            f"{runs.plan.peak_gb:.1f}",
            f"{shape.num_frames}x{shape.height_px}x{shape.width_px}",
            *(
                _seconds(own.get(name)) + "*" * (name in refused_profiles(looks[""]))
                for name in SHOWN_PROFILES
            ),
            *(_seconds(seconds.get("fast")) for seconds in tiers),
        )
    show_table(table)
    if any(refused_profiles(row) for row in rows if not row.tier):
        click.echo(
            "* This profile failed its quality gate; it has to be named with --accept_failed_gate."
        )
    for needs, those in needs_of(rows).items():
        click.echo(
            f"Not on this card, {'needs' if len(those) == 1 else 'need'} {needs}: {', '.join(those)}."
        )


def _seconds(time: Any) -> str:
    if time is None:
        return "-"
    return f"{time.total_s:.0f} s" if time.total_s >= 10 else f"{time.total_s:.1f} s"


@main.command()
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option(
    "--keep-hours",
    type=click.FloatRange(min=0),
    default=24.0,
    show_default=True,
    help="Younger leftovers stay.",
)
@click.option(
    "--retire-packs", is_flag=True, help="Over max_disk_gb, let packs of old releases go too."
)
def gc(dry_run: bool, keep_hours: float, retire_packs: bool) -> None:
    """Remove leftovers of killed runs and ended rounds, and old packs if asked to; lineage rows always stay."""
    from orchestration.deployments import home, local_site, resources
    from resources.sweeper import disk_usage, sweep

    kit = resources()
    if not dry_run:
        _fill_holes(kit["catalogs"])
    going = sweep(
        kit["store"],
        scratch=Path(kit["staging"].root),
        home=home(),
        max_disk_gb=local_site().max_disk_gb if retire_packs else None,
        keep_hours=keep_hours,
        apply=not dry_run,
    )
    table = Table("size", "what", "why")
    for removal in going:
        place = f"{removal.site}: {removal.key}" if removal.site else removal.key
        table.add_row(f"{removal.size_bytes / 1e6:.1f} MB", place, removal.reason)
    if going:
        show_table(table)
    used_gb = sum(disk_usage(kit["store"]).values()) / 1e9
    freed_mb = sum(removal.size_bytes for removal in going) / 1e6
    click.echo(
        f"{'Would free' if dry_run else 'Freed'} {freed_mb:.1f} MB; the site holds {used_gb:.2f} GB "
        f"of at most {local_site().max_disk_gb:g} GB."
    )


def _fill_holes(catalogs: Any) -> None:
    """Before anything goes: the batch of a claim that was lost looks like a leftover until then."""
    from resources.catalog_repair import heal

    for name in catalogs.federation.members:
        with _console.status(f"{name}: looking for holes"):
            healed = heal(catalogs, name)
        for words in healed.still_missing:
            click.echo(f"{name}: still missing: {words}")


@main.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
def migrate(dry_run: bool) -> None:
    """Check every table of the site and lift older ones to today's formats."""
    from orchestration.deployments import resources
    from worldloop.migrations import migrate as migrate_site

    reports = migrate_site(resources()["store"], dry_run=dry_run)
    table = Table("action", "version", "file", "detail")
    for report in reports:
        if report.action != "current":
            table.add_row(report.action, str(report.version), report.key, report.detail)
    if table.row_count:
        show_table(table)
    current = sum(report.action == "current" for report in reports)
    click.echo(f"{current} of {len(reports)} files have today's formats.")
    if any(report.action == "damaged" for report in reports):
        raise click.ClickException(
            "Some files are damaged: delete them, then run their assets again."
        )


@main.command()
def rebuild() -> None:
    """Make the Lance table of this machine's site anew; `catalog rebuild` knows the others."""
    from orchestration.catalog_cli import rebuild_catalogs

    rebuild_catalogs("local", projection="lance")


@main.command("open-wave")
@_wave_options
def open_wave(plan: dict[str, Any]) -> None:
    """Plan the next wave; the daemon's sensor carries it from there.

    Without --place the places are chosen that footage lacks most, one a city.
    """
    from orchestration.deployments import resources
    from orchestration.instance import open_instance

    instance = open_instance()
    from orchestration.main_job import plan_next_wave

    wave = plan_next_wave(instance, resources()["store"], plan)
    click.echo(f"{wave} is planned; `make dev` carries it.")


@main.command()
@click.option(
    "--serve", type=click.IntRange(1, 65535), help="Serve them at this port instead of printing."
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Another address than the loopback one needs WORLDLOOP_METRICS_TOKEN.",
)
def metrics(serve: int | None, host: str) -> None:
    """Print the site's numbers in Prometheus' format."""
    from prometheus_client import generate_latest

    from orchestration.deployments import metrics_token, resources
    from orchestration.instance import open_instance
    from orchestration.metrics import collect, serve_metrics

    kit, instance = resources(), open_instance()
    if serve is None:
        click.echo(
            generate_latest(collect(instance, kit["store"], kit["ledger"])).decode(), nl=False
        )
        return
    click.echo(f"http://{host}:{serve}/metrics until Ctrl-C")
    serve_metrics(
        serve,
        lambda: collect(instance, kit["store"], kit["ledger"]),
        host=host,
        token=metrics_token(),
    )


def _progress(terminal: TextIO) -> Progress:
    return Progress(
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(file=terminal),
    )


if __name__ == "__main__":
    main()
