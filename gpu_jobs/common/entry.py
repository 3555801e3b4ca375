"""How a job starts and ends: its spec comes from Dagster Pipes or a file, its report goes back."""

import importlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar
from urllib.parse import urlparse

from gpu_jobs.common.processes import this_rank
from worldloop.errors import MalformedRecordError, WorldloopError

Spec = TypeVar("Spec")

INTERRUPTED_STATUS = 130


def run_job(spec_type: type[Spec], job: Callable[..., Any], *, streams: bool = False) -> int:
    """Read the spec, do the work, report.

    With an argument, `python -m gpu_jobs.<name>.job spec.json`, the spec is read from that file and
    the report is printed. Without one the program was started by Dagster: the spec is the Pipes
    extra `spec`, and the report goes back as the custom message `{"report": ...}`.

    SIGINT and SIGTERM raise `KeyboardInterrupt` once in the main thread, so that the job's own
    clean-up runs; signals that follow are ignored until the program ends.

    Args:
        spec_type: The frozen dataclass that the job is asked with.
        job: From spec to report, a dataclass.
        streams: Whether the job takes `on_clip`, which it calls with the facts of each clip as soon as
            they are known; Dagster shows them as log lines and gets them as messages `{"clip": ...}`.

    Returns:
        The exit status.
    """
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    _log_as_json(job=spec_type.__name__)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        if len(sys.argv) > 1:
            return _run_by_hand(spec_type, job, Path(sys.argv[1]))
        return _run_for_dagster(spec_type, job, streams=streams)
    except KeyboardInterrupt:
        logging.getLogger(__name__).warning(json.dumps({"event": "interrupted"}))
        return INTERRUPTED_STATUS


def read_spec(spec_type: type[Spec], record: Mapping[str, Any]) -> Spec:
    """A spec from JSON; lists become tuples.

    Raises:
        MalformedRecordError: If a field is missing or unknown.
    """
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in record.items()}
    try:
        return spec_type(**fields)
    except TypeError as error:
        raise MalformedRecordError(
            spec_type.__name__,
            str(error),
            "the fields of the job's spec.py",
            "Start the job from its asset, or correct the file.",
        ) from error


def _run_by_hand(spec_type: type[Spec], job: Callable[..., Any], path: Path) -> int:
    try:
        spec = read_spec(spec_type, json.loads(path.read_text(encoding="utf-8")))
        report = asdict(job(spec))
    except WorldloopError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    if not this_rank():
        sys.stdout.write(json.dumps(report) + "\n")
    return 0


def _run_for_dagster(spec_type: type[Spec], job: Callable[..., Any], *, streams: bool) -> int:
    from dagster_pipes import open_dagster_pipes

    if this_rank():
        job(read_spec(spec_type, _spec_from_pipes()))
        return 0

    def tell(line: dict[str, Any]) -> None:
        pipes.log.info(json.dumps(line))
        pipes.report_custom_message({"clip": line})

    with open_dagster_pipes(message_writer=_message_writer()) as pipes:
        _log_as_json(job=spec_type.__name__, run_id=pipes.run_id)
        spec = read_spec(spec_type, pipes.get_extra("spec"))
        report = job(spec, on_clip=tell) if streams else job(spec)
        pipes.report_custom_message({"report": asdict(report)})
    return 0


def _message_writer() -> Any:
    """Writes to the bucket that the launcher named, or to the file that Pipes names."""
    import dagster_pipes as pipes

    url = urlparse(os.environ.get("WORLDLOOP_PIPES_URL", ""))
    if url.scheme == "s3":
        import boto3

        return pipes.PipesS3MessageWriter(client=boto3.client("s3"), interval=1)
    if url.scheme == "gs":
        storage = importlib.import_module("google.cloud.storage")
        return pipes.PipesGCSMessageWriter(client=storage.Client(), interval=1)
    if url.scheme == "az":
        from azure.identity import DefaultAzureCredential
        from azure.storage.blob import BlobServiceClient

        address = f"https://{url.netloc}.blob.core.windows.net"
        client = BlobServiceClient(address, credential=DefaultAzureCredential())
        return pipes.PipesAzureBlobStorageMessageWriter(client=client, interval=1)
    return pipes.PipesDefaultMessageWriter()


def _spec_from_pipes() -> Mapping[str, Any]:
    """The spec alone, for processes beside the first: only that one may send messages."""
    from dagster_pipes import PipesDefaultContextLoader, PipesEnvVarParamsLoader

    params = PipesEnvVarParamsLoader().load_context_params()
    with PipesDefaultContextLoader().load_context(params) as context:
        spec: Mapping[str, Any] = (context["extras"] or {})["spec"]
    return spec


class _JsonLines(logging.Formatter):
    """One JSON object a line: what the job logs, with the names that tie it to its run."""

    def __init__(self, names: dict[str, str]):
        super().__init__()
        self.names = names

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        try:
            facts = json.loads(message)
        except ValueError:
            facts = message
        if not isinstance(facts, dict):
            facts = {"event": "log", "message": message}
        return json.dumps({"level": record.levelname.lower(), **self.names, **facts})


def _log_as_json(**names: str) -> None:
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_JsonLines(names))


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt(signal.Signals(number).name)
