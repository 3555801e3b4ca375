import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dagster as dg
import psutil
import pytest

from gpu_jobs.cosmos_generate.tiny import write_tiny_checkpoint
from gpu_jobs.posttrain.spec import TRAIN
from resources.trainers import TrainerBusyError, Trainers
from tests.gpu_jobs.posttrain.tiny_footage import TEXT2WORLD, spec, write_clips
from worldloop.errors import JobFailedError, MalformedRecordError

SPAWN = multiprocessing.get_context("spawn")
WAIT_S = 90.0


@pytest.fixture
def trainers():
    """Trainers in a short folder, ended with the test."""
    yield from ended_trainers()


@pytest.fixture(scope="module")
def warm():
    """The same for all tests that train, so that torch is imported once."""
    yield from ended_trainers()


def ended_trainers():
    with tempfile.TemporaryDirectory(prefix="wl") as folder:
        one = Trainers(folder=folder, idle_s=WAIT_S, wait_s=0, env={"OMP_NUM_THREADS": "1"})
        yield one
        for state in one.standing():
            one.stop(state["site"])
            with_pid_gone(state["pid"])


def with_pid_gone(pid):
    wait_for(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie")


def wait_for(condition):
    end = time.monotonic() + WAIT_S
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def refused(trainers, site="aws"):
    """The cheapest command: the trainer starts, answers and imports nothing."""
    with pytest.raises(MalformedRecordError, match="colour"):
        trainers.run(site, TRAIN, {"colour": "red"}, timeout_s=WAIT_S)


def test_a_trainer_starts_when_it_is_needed_and_stays(trainers):
    assert trainers.standing() == []
    refused(trainers)
    (state,) = trainers.standing()
    refused(trainers)

    assert (state["site"], state["busy"]) == ("aws", False)
    assert trainers.standing()[0]["pid"] == state["pid"]
    assert os.getsid(state["pid"]) == state["pid"]


def test_who_started_a_trainer_ends_without_a_word_of_it(trainers):
    program = (
        "import sys\nfrom resources.trainers import Trainers\n"
        "Trainers(folder=sys.argv[1], idle_s=90.0)._connected('aws').close()"
    )
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", program, trainers.folder]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S)

    assert (ended.returncode, ended.stderr) == (0, "")
    assert [state["site"] for state in trainers.standing()] == ["aws"]


def test_an_error_comes_back_as_the_type_that_it_was(trainers):
    with pytest.raises(MalformedRecordError) as caught:
        trainers.run("aws", TRAIN, {"colour": "red"}, timeout_s=WAIT_S)
    assert caught.value.what == "PosttrainSpec"
    assert str(caught.value).endswith("Start the job from its asset, or correct the file.")


def test_of_many_who_need_one_at_once_one_starts_it(trainers):
    patient = Trainers(folder=trainers.folder, wait_s=WAIT_S)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: refused(patient), range(4)))
    log = trainers.log_path("aws").read_text()
    assert (log.count("trainer_up"), log.count("another_trainer_serves")) == (1, 0)


def test_a_stopped_and_a_killed_trainer_are_replaced(trainers):
    refused(trainers)
    first = trainers.standing()[0]["pid"]
    assert trainers.stop("aws")
    assert not trainers.stop("aws")
    refused(trainers)
    second = trainers.standing()[0]["pid"]
    os.kill(second, signal.SIGKILL)
    with_pid_gone(second)
    assert trainers.standing() == []

    refused(trainers)
    assert len({first, second, trainers.standing()[0]["pid"]}) == 3


def test_a_folder_with_a_long_path_still_has_a_socket(tmp_path):
    folder = tmp_path / ("long" * 30)
    trainers = Trainers(folder=str(folder), idle_s=WAIT_S)
    path = trainers.socket_path("aws")

    assert len(os.fsencode(path)) <= 100
    assert path != Trainers(folder=str(tmp_path / ("other" * 30))).socket_path("aws")
    refused(trainers)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert trainers.stop("aws")


def test_a_trainer_that_cannot_start_is_said_with_its_log(trainers):
    broken = Trainers(folder=trainers.folder, start_s=30.0, env={"PYTHONHOME": "/nowhere"})
    with pytest.raises(JobFailedError, match=r"did not answer .* log is .*aws\.log"):
        broken.run("aws", TRAIN, {}, timeout_s=WAIT_S)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A site's folder with footage and a tiny model."""
    folder = tmp_path_factory.mktemp("site")
    write_tiny_checkpoint(TEXT2WORLD, folder / "checkpoints")
    write_clips(folder / "footage")
    return folder


def training(site, output, **changes):
    return spec(site, site / "checkpoints", output_dir=str(output), training=changes)


def run_from_dagster(folder, asked, answered):
    """Train from an asset with a retry policy; writes down how the run ended and what was tried."""

    @dg.asset(retry_policy=dg.RetryPolicy(max_retries=1))
    def delta(trainers: Trainers):
        with Path(answered).open("a") as lines:
            lines.write("started\n")
        trainers.run("aws", TRAIN, asked, timeout_s=WAIT_S)

    with dg.DagsterInstance.ephemeral() as instance:
        resources = {"trainers": Trainers(folder=folder)}
        dg.materialize([delta], instance=instance, resources=resources, raise_on_error=False)


def test_the_second_command_loads_nothing_and_gives_the_same_bytes(warm, site, tmp_path):
    told, outputs = [], [tmp_path / "one", tmp_path / "two"]
    first, second = (
        warm.run("aws", TRAIN, training(site, to), timeout_s=WAIT_S, on_event=told.append)
        for to in outputs
    )

    assert first["load_s"] > 0
    assert second["load_s"] == second["encode_s"] == 0
    assert {"started", "loaded", "encoding", "step"} <= {event["event"] for event in told}
    adapters = [(folder / "adapter.safetensors").read_bytes() for folder in outputs]
    assert adapters[0] == adapters[1]


def test_a_terminated_run_ends_its_command_and_leaves_the_trainer_warm(warm, site, tmp_path):
    asked, tries = training(site, tmp_path / "out", num_steps=100_000), tmp_path / "tries"
    step = SPAWN.Process(target=run_from_dagster, args=(warm.folder, asked, str(tries)))
    step.start()
    try:
        wait_for(lambda: warm.standing()[0]["busy"])
        with pytest.raises(TrainerBusyError, match="busy with train"):
            warm.run("aws", TRAIN, asked, timeout_s=WAIT_S)
        os.kill(step.pid, signal.SIGTERM)
        step.join(WAIT_S)
    finally:
        step.kill()

    wait_for(lambda: not warm.standing()[0]["busy"])
    assert step.exitcode == 0
    assert tries.read_text() == "started\n"
    assert not (tmp_path / "out").exists()


def test_a_command_that_takes_too_long_is_ended(warm, site, tmp_path):
    asked = training(site, tmp_path / "out", num_steps=100_000)
    with pytest.raises(JobFailedError, match="longer than its timeout"):
        warm.run("aws", TRAIN, asked, timeout_s=2.0)
    wait_for(lambda: not warm.standing()[0]["busy"])


def test_a_trainer_that_is_killed_at_work_is_one_clear_error(warm, site, tmp_path):
    def kill(event):
        if event["event"] == "step":
            os.kill(warm.standing()[0]["pid"], signal.SIGKILL)

    asked = training(site, tmp_path / "out", num_steps=2_000)
    with pytest.raises(JobFailedError, match=r"in the middle of 'train'.*run the partition again"):
        warm.run("aws", TRAIN, asked, timeout_s=WAIT_S, on_event=kill)
