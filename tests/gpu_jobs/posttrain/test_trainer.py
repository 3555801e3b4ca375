"""The protocol of the warm trainer, with commands of the test's own in place of the ones that need torch."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from gpu_jobs.posttrain.trainer import Command, Trainer, answers
from worldloop.errors import MalformedRecordError

WAIT_S = 20.0
RUNNING = threading.Event()
ENDED: list[str] = []


@dataclass(frozen=True)
class Job:
    model: str = "Tiny"
    steps: int = 1
    fails: str = ""
    is_deaf: bool = False


@dataclass(frozen=True)
class Done:
    steps: int
    calls: int


def work(spec, on_event, bases):
    bases.append(spec.model)
    if spec.fails == "worldloop":
        raise MalformedRecordError("footage", "nothing", "videos", "Add some.")
    if spec.fails:
        raise RuntimeError(spec.fails)
    try:
        while spec.is_deaf:
            RUNNING.set()
            time.sleep(0.01)
        for step in range(spec.steps):
            on_event({"event": "step", "step": step + 1})
            RUNNING.set()
            time.sleep(0.01)
    except KeyboardInterrupt:
        ENDED.append("aborted")
        raise
    return Done(spec.steps, len(bases))


COMMANDS = {"train": Command(Job, f"{__name__}:work")}


@pytest.fixture
def place():
    with tempfile.TemporaryDirectory(prefix="wl") as folder:
        yield Path(folder) / "t.sock"


@pytest.fixture
def trainer(place, monkeypatch):
    monkeypatch.setitem(sys.modules, __name__, sys.modules[work.__module__])
    RUNNING.clear()
    ENDED.clear()
    one = Trainer(place, idle_s=WAIT_S, commands=COMMANDS, bases=[], heartbeat_s=0.05, grace_s=0.2)
    thread = threading.Thread(target=one.serve)
    thread.start()
    wait_for(place.exists)
    yield one
    one.stop()
    thread.join(WAIT_S)
    assert not thread.is_alive()


def wait_for(condition):
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def dial(place, **request):
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(WAIT_S)
    connection.connect(str(place))
    connection.sendall(json.dumps(request).encode() + b"\n")
    return connection


def ask(place, **request):
    with dial(place, **request) as connection, connection.makefile() as lines:
        return [json.loads(line) for line in lines]


def train(place, wait_s=0.0, **spec):
    return ask(place, command="train", spec=spec, wait_s=wait_s)


def test_a_command_tells_its_events_and_then_its_report(trainer, place):
    lines = [
        line for line in train(place, steps=2) if line.get("event", {}).get("event") != "alive"
    ]

    assert [line["event"]["event"] for line in lines[:-1]] == ["started", "step", "step"]
    assert lines[-1] == {"report": {"steps": 2, "calls": 1}}


def test_what_is_loaded_stays_loaded_for_the_next_command(trainer, place):
    train(place)
    assert train(place)[-1]["report"]["calls"] == 2


def test_an_error_travels_with_its_type_and_values_and_the_trainer_lives_on(trainer, place):
    error = train(place, fails="worldloop")[-1]["error"]

    assert error["type"] == "MalformedRecordError"
    assert error["message"] == "footage: found 'nothing', expected videos. Add some."
    assert error["facts"]["remedy"] == "Add some."
    assert "report" in train(place)[-1]


def test_an_unexpected_error_drops_what_was_loaded(trainer, place):
    assert train(place, fails="CUDA is on fire")[-1]["error"]["type"] == "RuntimeError"
    assert trainer._bases is None


@pytest.mark.parametrize("request_", [{"command": "dance"}, {"command": "train", "spec": {"x": 1}}])
def test_an_odd_request_is_refused_in_one_line(trainer, place, request_):
    assert ask(place, **request_)[-1]["error"]["type"] == "MalformedRecordError"


def test_words_that_are_no_request_are_refused(trainer, place):
    with dial(place, command="ping") as first:
        first.recv(1)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(place))
        connection.sendall(b"hello\n")
        assert b"MalformedRecordError" in connection.recv(1000)


def test_a_busy_trainer_says_so_and_still_answers_a_ping(trainer, place):
    with dial(place, command="train", spec={"steps": 10_000}):
        assert RUNNING.wait(WAIT_S)
        assert train(place)[-1]["error"]["type"] == "TrainerBusyError"
        state = ask(place, command="ping")[-1]["report"]
    assert (state["busy"], state["command"], state["model"]) == (True, "train", "Tiny")


def test_who_is_patient_gets_a_turn(trainer, place):
    first = dial(place, command="train", spec={"steps": 20})
    assert RUNNING.wait(WAIT_S)
    lines = train(place, wait_s=WAIT_S)
    first.close()
    assert {"event": {"event": "waiting"}} in lines
    assert lines[-1]["report"]["calls"] == 2


def test_who_waits_too_long_is_told(trainer, place):
    with dial(place, command="train", spec={"steps": 10_000}):
        assert RUNNING.wait(WAIT_S)
        assert train(place, wait_s=0.1)[-1]["error"]["type"] == "TrainerBusyError"


def test_a_client_that_hangs_up_at_once_blocks_nobody(trainer, place):
    dial(place, command="train", spec={"steps": 10_000}).close()

    assert train(place, wait_s=WAIT_S)[-1]["report"]["steps"] == 1


def test_a_client_that_goes_away_in_the_middle_aborts_at_the_next_step(trainer, place):
    connection = dial(place, command="train", spec={"steps": 10_000})
    assert RUNNING.wait(WAIT_S)
    connection.close()
    wait_for(lambda: ENDED == ["aborted"])


def test_a_command_that_never_looks_up_is_torn_out_and_loads_again(trainer, place):
    connection = dial(place, command="train", spec={"is_deaf": True})
    assert RUNNING.wait(WAIT_S)
    connection.close()

    wait_for(lambda: ENDED == ["aborted"])
    wait_for(lambda: not trainer.state()["busy"])
    assert trainer._bases is None


def test_a_silent_command_gives_signs_of_life(trainer, place):
    events = [line["event"] for line in train(place, steps=20)[:-1]]
    assert any(event["event"] == "alive" for event in events)


def test_stop_ends_the_command_and_removes_the_socket(trainer, place):
    with (
        dial(place, command="train", spec={"steps": 10_000}) as working,
        working.makefile() as lines,
    ):
        assert RUNNING.wait(WAIT_S)
        ask(place, command="stop")
        last = [json.loads(line) for line in lines][-1]
    assert last["error"]["type"] == "JobFailedError"
    wait_for(lambda: not place.exists())


def test_an_unused_trainer_ends_by_itself(place):
    assert Trainer(place, idle_s=0.05, commands=COMMANDS).serve()
    assert not place.exists()


def test_a_trainer_that_nobody_can_reach_any_more_ends(trainer, place):
    place.unlink()
    wait_for(trainer._down.is_set)


def test_only_its_user_may_connect(trainer, place):
    assert stat.S_IMODE(place.stat().st_mode) == 0o600


def test_a_second_trainer_leaves_the_first_alone(trainer, place):
    assert not Trainer(place, idle_s=1.0, commands=COMMANDS).serve()
    assert ask(place, command="ping")[-1]["report"]["pid"] == os.getpid()


def test_a_path_that_is_too_long_for_a_socket_is_refused(tmp_path):
    with pytest.raises(MalformedRecordError, match="at most 100"):
        Trainer(tmp_path / ("x" * 100), idle_s=1.0).serve()


def test_a_killed_trainers_socket_is_taken_over_and_a_signal_ends_the_next(place):
    command = [sys.executable, "-m", "gpu_jobs.posttrain.trainer", "--socket", str(place)]
    log = place.with_suffix(".log")
    command += ["--log", str(log)]
    first = subprocess.Popen(command)
    wait_for(place.exists)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert place.exists()

    second = subprocess.Popen(command)
    wait_for(lambda: answers(place))
    assert ask(place, command="ping")[-1]["report"]["pid"] == second.pid
    second.send_signal(signal.SIGTERM)
    assert second.wait(WAIT_S) == 0
    assert not place.exists()
    assert "trainer_down" in log.read_text()
