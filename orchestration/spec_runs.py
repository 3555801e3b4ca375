"""Runs of a spec on this machine: the job is started, listened to and cleaned up after.

Finished clips of an interrupted run are kept until it has ended well.
"""

import json
import shutil
import signal
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gpu_jobs.cosmos_generate.spec import CosmosGenerateSpec
from orchestration.job_runs import OnEvent, job_command, watch
from worldloop.cosmos.models import Model, model
from worldloop.errors import JobFailedError, MalformedRecordError

_JOB = "gpu_jobs.cosmos_generate.job"
_GUARD_PLACES = (
    "Cosmos-1.0-Guardrail",
    "Cosmos-Guardrail1",
    "nvidia/Cosmos-1.0-Guardrail",
    "nvidia/Cosmos-Guardrail1",
    "blocklist",
)


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Attributes:
        saved: Videos that were written.
        blocked: Clips that a guard stopped: name, guard, reason.
        failures: Clips that failed: name, stage, reason.
        report: The job's own report.
    """

    saved: tuple[Path, ...]
    blocked: tuple[tuple[str, str, str], ...]
    failures: tuple[tuple[str, str, str], ...]
    report: Mapping[str, Any]


def check_ready(spec: CosmosGenerateSpec, *, num_devices: int, num_gpus: int) -> None:
    """Refuse at once what this machine cannot run; tiny models run anywhere.

    Args:
        spec: What is to be made.
        num_devices: GPUs that it is asked to run on.
        num_gpus: GPUs that there are.

    Raises:
        MalformedRecordError: If a folder is missing; names all of them and how to get them.
        JobFailedError: If there are fewer GPUs.
    """
    chosen = model(spec.model)
    if chosen.tiny:
        return
    missing = _missing_folders(spec, chosen)
    if missing:
        without = ""
        if spec.upsampler.get("name") in missing:
            without = ", or do without the upsampler: --disable_prompt_upsampler"
        raise MalformedRecordError(
            f"checkpoints in {spec.checkpoint_dir}",
            f"no {', '.join(missing)}",
            f"the folders that {chosen.name} needs",
            f"Run: worldloop models download {chosen.name}{without}",
        )
    if num_gpus < num_devices:
        raise JobFailedError(
            f"{chosen.name} is asked to run on {num_devices} GPU{'s' * (num_devices > 1)}; this machine shows "
            f"{num_gpus or 'none'}. `worldloop doctor --gpu-gb 24` says what a card would run; without one, "
            "`worldloop generate` takes the tiny models of `worldloop models list`."
        )


def run_spec(
    spec: CosmosGenerateSpec,
    *,
    num_devices: int,
    log: Path,
    on_event: OnEvent,
) -> Outcome:
    """Run the job to its end; a run that ended well leaves only what was saved.

    Args:
        spec: What to make.
        num_devices: Processes; more than one start under torchrun.
        log: File that gets what the job says beside its events.
        on_event: Called with each event of the job, e.g. `{"event": "clip_done", ...}`.

    Raises:
        JobFailedError: If the job ended with an error; in its own words.
    """
    staging = Path(spec.staging_dir)
    staging.mkdir(parents=True, exist_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    spec_path = staging.with_suffix(".json")
    spec_path.write_text(json.dumps(asdict(spec)), encoding="utf-8")
    program = job_command(_JOB, spec_path, num_devices)
    words, answer, code = watch(program, log, on_event, is_report=_is_report)
    if code != 0 or answer is None:
        if not any(path.name[0] != "." for path in staging.iterdir()):  # nothing to go on from
            _forget(staging, spec_path)
        raise JobFailedError(f"{(words or _silence(code)).rstrip('.')}. Details: {log}")
    outcome = _outcome(spec, answer)
    if not outcome.failures:
        _forget(staging, spec_path)
    return outcome


def _is_report(record: Mapping[str, Any]) -> bool:
    return "clips" in record and "failures" in record


def _forget(staging: Path, spec_path: Path) -> None:
    shutil.rmtree(staging, ignore_errors=True)
    spec_path.unlink(missing_ok=True)


def _silence(code: int) -> str:
    """What can be said of a job that ended without a word."""
    if -code == signal.SIGKILL:
        return (
            "The job was killed, most likely because the machine ran out of memory: ask for fewer or smaller "
            "frames, or for a smaller model"
        )
    return f"The job ended with exit code {code} and no report"


def _missing_folders(spec: CosmosGenerateSpec, chosen: Model) -> list[str]:
    """Folders that are not there; what is in them is for the job to judge."""
    root = Path(spec.checkpoint_dir)
    missing = []
    if not spec.transformer_dir and not (root / chosen.name).is_dir():
        missing.append(chosen.name)
    guarded = spec.guards["text"] or spec.guards["video"]
    if guarded and not any((root / name).is_dir() for name in _GUARD_PLACES):
        missing += chosen.guards
    if spec.upsampler and not Path(spec.upsampler["dir"]).is_dir():
        missing.append(spec.upsampler["name"])
    return missing


def _outcome(spec: CosmosGenerateSpec, report: Mapping[str, Any]) -> Outcome:
    folder = Path(spec.save_dir)
    names = [request["clip_id"] for request in spec.requests]
    return Outcome(
        saved=tuple(folder / f"{row['recipe_id']}.mp4" for row in report.get("receipts", ())),
        blocked=_rows(report, "blocked", "guard", names),
        failures=_rows(report, "failures", "stage", names),
        report=report,
    )


def _rows(
    report: Mapping[str, Any], key: str, where: str, names: Sequence[str]
) -> tuple[tuple[str, str, str], ...]:
    rows = [row for row in report.get(key, ()) if row["recipe_id"] in names]
    return tuple((row["recipe_id"], row[where], row["reason"]) for row in rows)
