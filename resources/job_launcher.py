"""Starts the programs of `gpu_jobs/` as subprocesses and brings their reports back through Pipes."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import dagster as dg
from dagster import PipesTempFileContextInjector
from dagster._core.errors import DagsterExecutionInterruptedError
from pydantic import Field

from resources.pipes_messages import URL_VARIABLE, message_reader
from worldloop.errors import JobFailedError


class JobLauncher(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Runs `python -m gpu_jobs.<job>.job` in a process group of its own.

    Dagster's own subprocess client leaves a deaf child behind when a run is terminated, and a
    retry policy then starts it again; here a terminated step ends the whole group within
    `grace_s` and is never retried.

    Attributes:
        grace_s: Seconds between the polite signal and the kill.
        env: Variables added to those of the worker.
        messages_url: Bucket and prefix over which jobs report, e.g. `s3://bucket/pipes`; empty for a
            file of this machine. A command that starts the job in a cloud needs a bucket.
    """

    grace_s: float = Field(default=5.0, gt=0)
    env: dict[str, str] = Field(default_factory=dict)
    messages_url: str = ""

    def run(
        self,
        job: str,
        spec: Any,
        *,
        context: dg.AssetExecutionContext,
        timeout_s: float,
        num_processes: int = 1,
    ) -> Mapping[str, Any]:
        """Run a job to its end.

        Args:
            job: Folder of the job in `gpu_jobs/`, e.g. `render_clips`.
            spec: The job's spec dataclass; it travels as JSON.
            context: Of the asset that asks.
            timeout_s: The job is ended after this long.
            num_processes: More than one runs the job under `torchrun`, one process a GPU; only the
                first of them reports.

        Returns:
            The job's report as a mapping.

        Raises:
            dagster.Failure: If the run was terminated (not retried) or the job took too long.
            JobFailedError: If the job ended with an error or without a report.
        """
        with dg.open_pipes_session(
            context=context.op_execution_context,  # Pipes asks the asset's for a deprecated run_id
            context_injector=PipesTempFileContextInjector(),
            message_reader=message_reader(self.messages_url),
            extras={"spec": asdict(spec)},
        ) as session:
            told = {URL_VARIABLE: self.messages_url, **session.get_bootstrap_env_vars()}
            process = subprocess.Popen(
                _command(job, num_processes),
                start_new_session=True,
                env={**os.environ, **self.env, **told},
            )
            try:
                code = process.wait(timeout_s)
            except subprocess.TimeoutExpired as error:
                self._end(process)
                raise dg.Failure(
                    f"gpu_jobs.{job} ran past {timeout_s:.0f} s and was ended. Finished clips are kept: "
                    "run the partition again, or plan fewer clips a partition."
                ) from error
            except DagsterExecutionInterruptedError as error:
                self._end(process)
                raise dg.Failure(
                    f"gpu_jobs.{job} was terminated; run the partition again to go on.",
                    allow_retries=False,
                ) from error
        reports = [m["report"] for m in session.get_custom_messages() if "report" in m]
        if code != 0 or not reports:
            raise JobFailedError(
                f"gpu_jobs.{job} ended with exit code {code} and {len(reports)} reports; expected 0 "
                "and 1. Its own words are in this step's stderr log; finished clips are kept, "
                "so running the partition again goes on from there."
            )
        report: Mapping[str, Any] = reports[-1]
        return report

    def _end(self, process: "subprocess.Popen[bytes]") -> None:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(self.grace_s)
        with contextlib.suppress(ProcessLookupError):  # also grandchildren of a polite child
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _command(job: str, num_processes: int) -> list[str]:
    program = ["-m", f"gpu_jobs.{job}.job"]
    if num_processes == 1:
        return [sys.executable, *program]
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_processes}"]
    return [sys.executable, *torchrun, *program]
