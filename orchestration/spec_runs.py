"""Runs of a spec on this machine: the job is started, listened to and cleaned up after.

Finished clips of an interrupted run are kept until it has ended well.
"""

import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from gpu_jobs.cosmos_generate.spec import CosmosGenerateSpec
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
    on_event: Callable[[Mapping[str, Any]], None],
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
    words, answer, code = _watch(command(spec_path, num_devices), log, on_event)
    if code != 0 or answer is None:
        if not any(path.name[0] != "." for path in staging.iterdir()):  # nothing to go on from
            _forget(staging, spec_path)
        raise JobFailedError(f"{(words or _silence(code)).rstrip('.')}. Details: {log}")
    outcome = _outcome(spec, answer)
    if not outcome.failures:
        _forget(staging, spec_path)
    return outcome


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


def command(spec_path: Path, num_devices: int) -> list[str]:
    """The program that makes the clips of a spec.

    Example:
        >>> command(Path("spec.json"), 1)[1:]
        ['-m', 'gpu_jobs.cosmos_generate.job', 'spec.json']
    """
    if num_devices == 1:
        return [sys.executable, "-m", _JOB, str(spec_path)]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*launcher, f"--nproc_per_node={num_devices}", "-m", _JOB, str(spec_path)]


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


def _watch(
    arguments: Sequence[str], log: Path, on_event: Callable[[Mapping[str, Any]], None]
) -> tuple[str, Mapping[str, Any] | None, int]:
    """Run a program; its last words, its report and its exit code."""
    reports: list[Mapping[str, Any]] = []
    with (
        log.open("a", encoding="utf-8") as file,
        subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
        ) as process,
    ):
        assert process.stdout is not None
        assert process.stderr is not None
        listener = threading.Thread(target=_read_reports, args=(process.stdout, reports))
        listener.start()
        try:
            words = _read_events(process.stderr, file, on_event)
            code = process.wait()
        except KeyboardInterrupt:  # the job ends politely; its finished clips stand
            process.send_signal(signal.SIGINT)
            process.wait()
            raise
        finally:
            listener.join()
    return words, reports[-1] if reports else None, code


def _read_reports(stream: IO[str], reports: list[Mapping[str, Any]]) -> None:
    for line in stream:
        record = _json(line)
        if "clips" in record and "failures" in record:
            reports.append(record)


def _read_events(
    stream: IO[str], log: IO[str], on_event: Callable[[Mapping[str, Any]], None]
) -> str:
    """Pass events on, keep all in the log, and answer with the words that an error ended with."""
    words = ""
    for line in stream:
        log.write(line)
        record = _json(line)
        if record.get("event", "log") != "log":
            on_event(record)
        kind, colon, _ = line.partition(": ")
        if colon and kind.rpartition(".")[2].isidentifier() and kind.endswith(("Error", "Failure")):
            words = line.partition(": ")[2].strip()
    return words


def _json(line: str) -> Mapping[str, Any]:
    if not line.startswith("{"):
        return {}
    try:
        record = json.loads(line)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


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
