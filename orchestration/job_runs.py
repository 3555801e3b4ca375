"""Jobs that a command starts on this machine: their program, their events, their report, their last words."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

OnEvent = Callable[[Mapping[str, Any]], None]


class Ended(NamedTuple):
    """How a job ended.

    Attributes:
        words: Of the error that it ended with; empty if it said none.
        report: What it answered; None if it did not.
        code: Its exit code.
    """

    words: str
    report: Mapping[str, Any] | None
    code: int


def job_command(job: str, spec_path: Path, num_processes: int) -> list[str]:
    """The program that runs a spec.

    Args:
        job: Its module, e.g. `gpu_jobs.posttrain.job`.
        spec_path: File with the spec.
        num_processes: More than one start under torchrun.

    Example:
        >>> job_command("gpu_jobs.posttrain.job", Path("spec.json"), 1)[1:]
        ['-m', 'gpu_jobs.posttrain.job', 'spec.json']
    """
    if num_processes == 1:
        return [sys.executable, "-m", job, str(spec_path)]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*launcher, f"--nproc_per_node={num_processes}", "-m", job, str(spec_path)]


def watch(
    arguments: Sequence[str],
    log: Path,
    on_event: OnEvent,
    *,
    is_report: Callable[[Mapping[str, Any]], bool] = bool,
) -> Ended:
    """Run a program to its end; interrupted, it ends politely and keeps what is finished.

    Args:
        arguments: As `job_command` gives them.
        log: File that gets all that the job says.
        on_event: Called with each event of the job, e.g. `{"event": "clip_done", ...}`.
        is_report: Which JSON object of its standard output is the report; the last one counts.
    """
    reports: list[Mapping[str, Any]] = []
    with (
        log.open("a", encoding="utf-8") as file,
        subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
        ) as process,
    ):
        assert process.stdout is not None
        assert process.stderr is not None
        listener = threading.Thread(target=_read_reports, args=(process.stdout, reports, is_report))
        listener.start()
        try:
            words = _read_events(process.stderr, file, on_event)
            code = process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            process.wait()
            raise
        finally:
            listener.join()
    return Ended(words, reports[-1] if reports else None, code)


def _read_reports(
    stream: IO[str],
    reports: list[Mapping[str, Any]],
    is_report: Callable[[Mapping[str, Any]], bool],
) -> None:
    reports += [record for record in map(_json, stream) if is_report(record)]


def _read_events(stream: IO[str], log: IO[str], on_event: OnEvent) -> str:
    """Pass events on, keep all in the log, and answer with the words that an error ended with."""
    words = ""
    for line in stream:
        log.write(line)
        record = _json(line)
        if record.get("event", "log") != "log":
            on_event(record)
        kind, colon, rest = line.partition(": ")
        if colon and kind.rpartition(".")[2].isidentifier() and kind.endswith(("Error", "Failure")):
            words = rest.strip()
    return words


def _json(line: str) -> Mapping[str, Any]:
    if not line.startswith("{"):
        return {}
    try:
        record = json.loads(line)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}
