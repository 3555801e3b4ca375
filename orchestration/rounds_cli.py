"""`worldloop rounds`: how federated rounds stand, and what a person does about them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.markup import escape
from rich.table import Table

from orchestration.terminal import chatter_in, show_table
from worldloop.errors import UnknownKeyError

_STEPS = {"delta": "delta_job", "adapter": "adapter_job", "scores": "scores_job"}
_JOBS: Mapping[str, str] = {**_STEPS, "verdict": "verdict_job"}
_AT_A_SITE = ("delta", "scores")
_LOG_NAME = "rounds.log"
_QUIET = {"loggers": {"console": {"config": {"log_level": "WARNING"}}}}


@click.group()
def rounds() -> None:
    """Federated rounds: list, show, plan, retry, roll back."""


@rounds.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a round.")
def list_rounds(*, as_json: bool) -> None:
    """Say how every round stands, oldest first."""
    found = _summaries()
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    if not found:
        click.echo("No round is planned yet. See `worldloop rounds plan --help`.")
        return
    table = Table(*(name.replace("_", " ") for name in found[0] if name != "reason"))
    for one in found:
        table.add_row(*(escape(str(value)) for name, value in one.items() if name != "reason"))
    show_table(table)


@rounds.command()
@click.argument("round_key", metavar="ROUND")
def show(round_key: str) -> None:
    """Say what ROUND plans, who took part, what the gates said and how it ended."""
    from resources.round_files import (
        read_adapter_record,
        read_evaluation_record,
        read_outcome,
        read_round_plan,
        standing_of,
    )
    from worldloop.federation.evaluation import Evaluation
    from worldloop.federation.gates import evaluate_gates

    store = _store()
    plan, standing = read_round_plan(store, round_key), standing_of(store, round_key)
    facts: dict[str, object] = {
        "phase": standing.phase,
        "opened at": plan.opened_at,
        "why": plan.reason or "no reason given",
        "model": f"{plan.base.model}@{plan.base.revision}",
        "goes on from": plan.base.adapter or "a new adapter",
        "waves": ", ".join(plan.waves),
        "sites": ", ".join(plan.sites),
        "held out": ", ".join(plan.trial.held_out_cities) or "nothing",
        "steps a site": plan.training.num_steps,
        "strategy, codec": f"{plan.aggregation.strategy}, {plan.aggregation.codec}",
        "deltas": f"{', '.join(standing.deltas) or 'none'} (quorum {plan.terms.quorum})",
        "scores": ", ".join(standing.scores) or "none",
    }
    outcome = read_outcome(store, round_key)
    if outcome:
        facts["outcome"] = f"{outcome.outcome}: {outcome.reason}"
    table = Table(show_header=False)
    for name, value in facts.items():
        table.add_row(name, escape(str(value)))
    show_table(table)
    record = read_adapter_record(store, round_key)
    entries = outcome.participation if outcome else (record.participation if record else ())
    for one in entries:
        words = f"{one.num_clips} clips, {one.size_bytes} bytes, weight {one.weight:.3g}"
        click.echo(
            f"{one.site}: {one.status}" + (f", {one.reason}" if one.reason else f", {words}")
        )
    found = read_evaluation_record(store, round_key)
    if found:
        for gate in evaluate_gates(Evaluation.from_record(found), plan.trial.limits, plan):
            click.echo(f"{'passed' if gate.passed else 'FAILED'} {gate.name}: {gate.why}")


@rounds.command()
@click.option("--model", default="", help="World model that is post-trained.")
@click.option(
    "--wave", "waves", multiple=True, help="Released wave; repeat for more. All new ones else."
)
@click.option(
    "--site", "sites", multiple=True, help="Member; repeat for more. All with clips else."
)
@click.option("--base", default="main", show_default=True, help="A round, `main` or `new`.")
@click.option("--num-steps", default=0, help="Optimizer steps of a site.")
@click.option("--reason", default="planned by hand", show_default=True)
@click.option(
    "--config",
    "config_path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSON with further fields of the asset's config: training, aggregation, terms, trial.",
)
def plan(
    model: str,
    waves: tuple[str, ...],
    sites: tuple[str, ...],
    base: str,
    num_steps: int,
    reason: str,
    config_path: Path | None,
) -> None:
    """Open the next round. The daemon (`make dev`) carries it from there."""
    from orchestration.instance import open_instance
    from resources.round_files import planned_rounds
    from worldloop.federation.rounds import next_round_key

    asked = _config(config_path)
    named = {"model": model, "waves": [*waves], "sites": [*sites], "base": base, "reason": reason}
    asked |= {name: value for name, value in named.items() if value}
    if num_steps:
        asked["training"] = {**asked.get("training", {}), "num_steps": num_steps}
    if not asked.get("model"):
        raise click.UsageError("Name a model: --model Cosmos-Predict2-2B-Video2World.")
    instance = open_instance()
    known = {*instance.get_dynamic_partitions("round"), *planned_rounds(_store())}
    key = next_round_key(known)
    instance.add_dynamic_partitions("round", [key])
    config = {"ops": {"round_plan": {"config": asked}}}
    try:
        _execute("round_job", key, instance, config)
    except BaseException:
        if key not in planned_rounds(_store()):
            instance.delete_dynamic_partition("round", key)
        raise
    click.echo(f"{key} is planned. `worldloop rounds show {key}` says what it asks of whom.")


@rounds.command()
@click.argument("round_key", metavar="ROUND")
@click.argument("step", type=click.Choice([*_JOBS]))
@click.option("--site", default="", help="For `delta` and `scores`: which site.")
def retry(round_key: str, step: str, site: str) -> None:
    """Run one STEP of ROUND again, here and now; what stands is not made again."""
    from assets.partitions import site_round_key
    from orchestration.instance import open_instance
    from resources.round_files import read_round_plan

    plan = read_round_plan(_store(), round_key)
    at_a_site = step in _AT_A_SITE
    if at_a_site != bool(site):
        raise click.UsageError(
            f"{step} runs {'at one site: name it with --site' if at_a_site else 'at the coordinator: leave --site out'}."
        )
    if site and site not in plan.sites:
        raise UnknownKeyError(f"site of {round_key}", site, plan.sites)
    instance = open_instance()
    instance.add_dynamic_partitions("round", [round_key])
    _execute(_JOBS[step], site_round_key(site, round_key) if site else round_key, instance)
    click.echo(f"{step} of {round_key}{f' at {site}' if site else ''} is done.")


@rounds.command("roll-back")
@click.argument("round_key", metavar="ROUND")
@click.option("--reason", required=True, help="Why, for the history, the audit row and the alert.")
def roll_back(round_key: str, reason: str) -> None:
    """Take the promoted checkpoint of ROUND back; the one before it is used again."""
    from orchestration.instance import open_instance
    from resources.round_files import read_round_plan

    read_round_plan(_store(), round_key)
    asked = {"roll_back": round_key, "reason": reason}
    config = {"ops": {"checkpoint_lines": {"config": asked}}}
    _execute("lines_job", None, open_instance(), config)
    click.echo(f"The checkpoint of {round_key} is used no more.")


def _store() -> Any:
    from orchestration.deployments import federation

    everything = federation()
    return everything.store(everything.coordinator)


def _summaries() -> list[dict[str, Any]]:
    from resources.round_files import planned_rounds, read_outcome, read_round_plan, standing_of

    store, found = _store(), []
    for key in planned_rounds(store):
        plan, standing = read_round_plan(store, key), standing_of(store, key)
        outcome = read_outcome(store, key)
        found.append(
            {
                "round": key,
                "phase": standing.phase,
                "outcome": outcome.outcome if outcome else "",
                "model": plan.base.model,
                "base": plan.base.adapter or "new",
                "waves": len(plan.waves),
                "deltas": f"{len(standing.deltas)} of {len(plan.sites)}",
                "scores": f"{len(standing.scores)} of {len(plan.sites)}",
                "opened_at": plan.opened_at,
                "reason": outcome.reason if outcome else plan.reason,
            }
        )
    return found


def _config(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        asked = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise click.ClickException(f"{path.name} is no JSON: {error}. Correct it.") from error
    if not isinstance(asked, dict):
        raise click.ClickException(f"{path.name} holds no JSON object. Correct it.")
    return asked


def _execute(
    job: str, key: str | None, instance: Any, config: dict[str, Any] | None = None
) -> None:
    """Run a job in this process; what it prints goes into a file.

    Raises:
        click.ClickException: If it fails, with its own words.
    """
    from orchestration.definitions import build_definitions
    from orchestration.deployments import home, resources

    log = home() / _LOG_NAME
    with chatter_in(log):
        result = (
            build_definitions(resources())
            .resolve_job_def(job)
            .execute_in_process(
                instance=instance,
                partition_key=key,
                run_config={**_QUIET, **(config or {})},
                raise_on_error=False,
            )
        )
    if result.success:
        return
    words = [
        _first_words(event.step_failure_data.error) for event in result.get_step_failure_events()
    ]
    raise click.ClickException("\n".join(words) or f"{job} failed; see {log}.")


def _first_words(error: Any) -> str:
    """What an error said first, without where in the code."""
    while error is not None and error.cause is not None:
        error = error.cause
    return "" if error is None else str(error.message).partition(": ")[2].strip()
