import multiprocessing
import os
import signal
import time
from pathlib import Path

import dagster as dg
import psutil

from gpu_jobs.embed_clips.spec import EmbedClipsSpec
from gpu_jobs.render_clips.spec import RenderClipsSpec
from resources.job_launcher import JobLauncher, _command
from tests.factories import make_recipe
from worldloop.errors import JobFailedError

SPAWN = multiprocessing.get_context("spawn")
WAIT_S = 60.0
LONG = make_recipe("museum", num_frames=900, width_px=512, height_px=288, num_samples=5)


def render_spec(folder, *recipes):
    return RenderClipsSpec(
        recipes=tuple(recipe.to_record() for recipe in recipes),
        staging_dir=str(folder / "staging"),
        pack_path=str(folder / "pack.tar"),
    )


def launch(job, spec, *, attempts=None, timeout_s=WAIT_S, **launcher):
    """Run a job from an asset with a retry policy, as ours have."""

    @dg.asset(retry_policy=dg.RetryPolicy(max_retries=1))
    def footage(context: dg.AssetExecutionContext, launcher: JobLauncher):
        if attempts is not None:
            with Path(attempts).open("a") as lines:
                lines.write("started\n")
        report = launcher.run(job, spec, context=context, timeout_s=timeout_s)
        return dg.MaterializeResult(metadata={"num_clips": len(report["clips"])})

    with dg.DagsterInstance.ephemeral() as instance:
        resources = {"launcher": JobLauncher(**launcher)}
        return dg.materialize(
            [footage], instance=instance, resources=resources, raise_on_error=False
        )


def failure_of(result):
    return result.get_step_failure_events()[0].event_specific_data.error.to_string()


def wait_for(condition, what):
    end = time.monotonic() + WAIT_S
    while not (found := condition()):
        assert time.monotonic() < end, f"{what} did not happen within {WAIT_S:.0f} s"
        time.sleep(0.02)
    return found


def test_a_terminated_step_ends_its_job_and_is_not_tried_again(tmp_path):
    attempts = tmp_path / "attempts"
    step = SPAWN.Process(
        target=launch,
        args=("render_clips", render_spec(tmp_path, LONG)),
        kwargs={"attempts": str(attempts)},
    )
    step.start()
    try:
        wait_for(lambda: list(tmp_path.glob("staging/*.partial")), "rendering")
        running = psutil.Process(step.pid).children(recursive=True)
        job = next(child for child in running if "gpu_jobs.render_clips.job" in child.cmdline())

        os.kill(step.pid, signal.SIGTERM)
        step.join(WAIT_S)
    finally:
        step.kill()

    assert step.exitcode == 0
    assert not job.is_running()
    assert attempts.read_text() == "started\n"
    assert not (tmp_path / "pack.tar").exists()


def test_a_job_that_ends_with_an_error_is_named():
    asked_wrongly = EmbedClipsSpec()

    message = failure_of(launch("render_clips", asked_wrongly))

    assert JobFailedError.__name__ in message
    assert "gpu_jobs.render_clips ended with exit code 1 and 0 reports" in message


def test_a_job_that_takes_too_long_is_ended(tmp_path):
    spec = render_spec(tmp_path, LONG)

    message = failure_of(launch("render_clips", spec, timeout_s=0.3, grace_s=1.0))

    assert "gpu_jobs.render_clips ran past 0 s" in message
    assert "plan fewer clips" in message


def test_a_job_brings_its_report_back(tmp_path):
    clip = make_recipe("museum", num_frames=5, width_px=64, height_px=36, num_samples=1)

    result = launch("render_clips", render_spec(tmp_path, clip))

    assert result.asset_materializations_for_node("footage")[0].metadata["num_clips"].value == 1
    assert (tmp_path / "pack.tar").stat().st_size > 0


def test_several_processes_start_under_torchrun_and_one_does_not():
    one, four = _command("cosmos_generate", 1), _command("cosmos_generate", 4)

    assert one[1:] == ["-m", "gpu_jobs.cosmos_generate.job"]
    assert four[1:5] == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=4"]
    assert four[5:] == one[1:]
