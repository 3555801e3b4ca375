import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pytest

from orchestration.site_agent import (
    PHASE_FILES,
    Address,
    SiteAgent,
    Step,
    ask_address,
    due_at,
    open_phase,
    work_in_child,
)
from orchestration.site_work import do_step
from resources.outbox import Outbox
from resources.round_deltas import gather
from resources.round_files import planned_rounds
from resources.secure_rounds import FILES, read_standing
from tests.orchestration.small_round import HOMES, ROUND, lay_out, plan_round, trainer
from worldloop.errors import JobFailedError, StoreError
from worldloop.federation.masking import DONE
from worldloop.federation.outbox import DELTA, RECEIPT
from worldloop.federation.rounds import Aggregation

MOST_IDLE_MB = 60
WAIT_S = 90.0
PLAN = {"sites": ("aws", "gcp"), "max_staleness": 0, "secure": False}
ADAPTER = ("adapter/participants.json", "adapter/adapter.json", "adapter/adapter.safetensors")


@pytest.fixture(scope="module")
def base():
    """A short folder, as the paths of sockets have to be."""
    with tempfile.TemporaryDirectory(prefix="wl") as folder:
        yield Path(folder)


@pytest.fixture
def home(base, monkeypatch):
    """The home of a coordinator and three sites, which this process and its children find by the environment."""
    folder = Path(tempfile.mkdtemp(dir=base))
    lay_out(folder)
    for variable in ("WORLDLOOP_SITES", "WORLDLOOP_DEPLOYMENT", "WORLDLOOP_READ_ONLY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("WORLDLOOP_HOME", str(folder))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return folder


@pytest.fixture
def federation(home):
    return lay_out(home)


def address_of(home, **changes):
    known = {"url": str(home / "site"), "options": {}, "secrets": {}, "environment": {}}
    return Address(
        **{**known, "sites": tuple(HOMES), "log_folder": str(home / "agents"), **changes}
    )


def agent_of_this_process(site, home):
    """An agent whose work is done here, without a process for each step."""

    def work(step, address):
        do_step(step.name, site, step.round)

    return SiteAgent(site, address=lambda: address_of(home), work=work)


def wait_for(condition):
    end = time.monotonic() + WAIT_S
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


@contextlib.contextmanager
def agent_process(*arguments):
    """`worldloop site-agent`, ended with the test."""
    command = [sys.executable, "-m", "orchestration.cli", "site-agent", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()


@pytest.mark.parametrize(
    ("names", "due"),
    [
        ((), "delta"),
        (("sites/gcp/delta.bin",), "delta"),
        (("sites/aws/delta.bin",), None),
        (("adapter/participants.json",), None),
        (("sites/aws/delta.bin", *ADAPTER), "scores"),
        (ADAPTER, "scores"),
        (("sites/aws/delta.bin", "adapter/adapter.json"), None),
        ((*ADAPTER, "sites/aws/scores.json"), None),
        ((*ADAPTER, "evaluation.json"), None),
    ],
)
def test_what_is_due_is_told_by_the_names_of_files(names, due):
    assert due_at("aws", PLAN, {"plan.json", *names}) == due


def test_a_late_delta_is_due_where_the_plan_takes_one():
    late = {"plan.json", "adapter/participants.json"}
    assert due_at("aws", {**PLAN, "max_staleness": 1}, late) == "delta"
    assert due_at("azure", PLAN, late) is None


@pytest.mark.parametrize(
    ("rosters", "sent", "due"),
    [
        ((), (), "delta"),
        ((), ("secure-1.json",), None),
        ((), ("delta.bin",), None),
        ((1,), ("secure-1.json",), "delta"),
        ((1, 2), ("secure-1.json", "secure-2.json"), "delta"),
        ((1, 2), ("secure-1.json", "secure-2.json", "delta.bin"), None),
        ((1, 2, 3), ("secure-1.json", "secure-2.json", "delta.bin"), "delta"),
        ((1, 2, 3, 4), ("secure-1.json", "secure-2.json", "delta.bin"), None),
    ],
)
def test_a_secure_round_comes_back_once_a_phase(rosters, sent, due):
    plan = {**PLAN, "secure": True}
    names = {f"secure/roster-{n}.json" for n in rosters} | {f"sites/aws/{n}" for n in sent}
    assert due_at("aws", plan, names) == due
    assert open_phase(plan, names) == len(rosters) + 1


def test_the_files_of_phases_are_those_of_secure_rounds():
    assert PHASE_FILES == FILES


def test_an_idle_agent_is_small_and_imports_nothing_large(home):
    program = (
        "import sys, json, psutil\n"
        "from orchestration.site_agent import Address, SiteAgent\n"
        f"known = Address({str(home / 'site')!r}, {{}}, {{}}, ('aws',), '', {{}})\n"
        "agent = SiteAgent('aws', address=lambda: known)\n"
        "assert agent.once() and agent.once()\n"
        "print(json.dumps([psutil.Process().memory_info().rss / 1e6, sorted(sys.modules)]))\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    rss_mb, modules = json.loads(answer.stdout)

    assert not {"dagster", "polars", "pyarrow", "torch", "numpy"} & set(modules)
    assert rss_mb <= MOST_IDLE_MB


def test_the_agent_sends_what_the_asset_would(federation):
    plan = plan_round(federation)
    home, store = Path(federation.home), federation.store("local")
    with trainer(home, "aws"), trainer(home, "azure"):
        for site in ("aws", "azure"):
            assert SiteAgent(site, address=lambda: address_of(home)).once()
    gathered = gather(store, plan)

    answers = {one.participation.site: one.participation for one in gathered.deltas}
    assert {site: one.status for site, one in answers.items()} == {
        "aws": "accepted",
        "azure": "accepted",
        "gcp": "missing",
    }
    assert answers["aws"].num_clips == 2
    assert Outbox(store).senders(ROUND, RECEIPT) == ["aws", "azure"]
    assert not (home / "scratch" / "rounds").exists()


def test_the_agents_of_a_secure_round_carry_it_through_its_phases(federation):
    plan = plan_round(federation, aggregation=Aggregation(secure=True))
    home, store = Path(federation.home), federation.store("local")
    agents = [agent_of_this_process(site, home) for site in HOMES]
    with contextlib.ExitStack() as trainers:
        for site in HOMES:
            trainers.enter_context(trainer(home, site))
        for _ in range(4):
            assert all(agent.once() for agent in agents)
    assert read_standing(Outbox(store), plan).phase == DONE


def test_what_stands_is_not_made_again(federation):
    plan_round(federation)
    home, sent = Path(federation.home), Outbox(federation.store("local"))
    with trainer(home, "aws") as serving:
        do_step("delta", "aws", ROUND)
        first = sent.sent(ROUND, "aws", DELTA)
        do_step("delta", "aws", ROUND)
        assert serving.state()["num_done"] == 1
    assert sent.sent(ROUND, "aws", DELTA) == first
    assert SiteAgent("aws", address=lambda: address_of(home)).due() == []


def test_an_agent_that_was_killed_in_its_work_heals_when_it_is_started_again(federation):
    plan_round(federation)
    home, sent = Path(federation.home), Outbox(federation.store("local"))
    with trainer(home, "aws", "hang"), agent_process("--site", "aws", "--poll-s", "0.2") as first:
        wait_for(lambda: list((home / "scratch").rglob("hangs")))
        working = psutil.Process(first.pid).children()
        first.kill()
        for each in working:
            each.kill()
    assert sent.sent(ROUND, "aws", DELTA) is None

    with trainer(home, "aws"), agent_process("--site", "aws", "--poll-s", "0.2"):
        wait_for(lambda: sent.sent(ROUND, "aws", DELTA))


def test_sigterm_ends_a_working_agent_and_its_work(federation):
    plan_round(federation)
    home = Path(federation.home)
    with trainer(home, "aws", "hang") as serving, agent_process("--site", "aws") as agent:
        wait_for(lambda: list((home / "scratch").rglob("hangs")))
        (working,) = psutil.Process(agent.pid).children()
        agent.terminate()
        _, said = agent.communicate(timeout=WAIT_S)
        assert not working.is_running()
        wait_for(lambda: not serving.state()["busy"])

    assert agent.returncode == 0
    assert said.splitlines()[-1].endswith("aws: stopped")
    assert "Traceback" not in said


def test_a_failure_is_one_line_and_is_tried_again_later(home, caplog):
    asked = []

    def fail(step, address):
        asked.append(step)
        raise StoreError("no\nroom")

    plan_round(lay_out(home))
    agent = SiteAgent("aws", poll_s=30.0, address=lambda: address_of(home), work=fail)
    assert not agent.once()
    assert agent.once()

    assert asked == [Step(ROUND, "delta")]
    (line,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert line == "aws: delta of r0001: no room Again in 30 s."


def test_pauses_grow_with_every_failure_and_end_with_a_success(home, caplog):
    answers = iter([StoreError("gone"), StoreError("gone"), None, StoreError("gone")])

    def address():
        if (answer := next(answers)) is not None:
            raise answer
        return address_of(home, url=str(home / "nowhere"))

    agent = SiteAgent("aws", poll_s=1.0, address=address)
    assert [agent.once() for _ in range(3)] == [False, False, True]
    assert [line.split("Again in ")[1] for line in caplog.messages] == ["1 s.", "2 s."]


def test_an_unknown_site_is_named_with_what_there_is(home, caplog):
    assert not SiteAgent("gpc", address=ask_address).once()
    assert "No site has the key 'gpc'. Did you mean 'gcp'?" in caplog.text


def test_a_round_that_is_over_is_not_listed_again(home):
    federation = lay_out(home)
    plan_round(federation)
    agent = SiteAgent("aws", address=lambda: address_of(home))
    assert agent.due() == [Step(ROUND, "delta")]
    federation.store("local").put(f"rounds/{ROUND}/outcome.json", b"{}")

    assert agent.due() == []
    assert planned_rounds(federation.store("local")) == [ROUND]


def test_work_that_dies_is_said_with_its_log(home, monkeypatch):
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    with pytest.raises(JobFailedError, match=r"ended with code 1 and no answer.*agents/aws\.log"):
        work_in_child(Step(ROUND, "delta"), "aws", log_path=home / "agents" / "aws.log")


def test_a_round_without_a_plan_is_refused_by_name(home):
    with pytest.raises(JobFailedError, match="No planned round has the key 'r0009'"):
        work_in_child(Step("r0009", "delta"), "aws", stopped=threading.Event())
