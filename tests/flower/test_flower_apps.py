"""The two apps without Flower's processes: what they import, ask, refuse and ask again."""

import json
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest

pytest.importorskip("flwr", reason='pip install "worldloop[flower]"')

from orchestration.flower import client_app
from orchestration.flower.messages import packed, unpacked
from orchestration.flower.server_app import Courier, serve
from resources.outbox import Outbox
from resources.site_keys import SiteKeys
from tests.flower.test_parcels import sealed
from tests.orchestration.small_round import HOMES, ROUND, lay_out, plan_round
from worldloop import layout
from worldloop.errors import JobFailedError, MalformedRecordError, UnknownKeyError
from worldloop.federation.outbox import DELTA
from worldloop.federation.rounds import Aggregation


@pytest.fixture(autouse=True)
def _task(monkeypatch):
    """What Flower tells a process of its run."""
    from flwr.supercore.task_identity import TaskIdentity

    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


@dataclass
class Grid:
    """Nodes that answer at once with what they are told to; a stand-in for Flower's grid."""

    answers: dict[int, list]
    asked: list[int] = field(default_factory=list)
    waiting: dict[str, Any] = field(default_factory=dict)

    def get_node_ids(self):
        return list(self.answers)

    def push_messages(self, messages):
        from flwr.app import Message

        ids = []
        for message in messages:
            node, number = message.metadata.dst_node_id, f"m{len(self.asked)}"
            message.metadata.__dict__["_message_id"] = number
            self.asked.append(node)
            ids.append(number)
            if self.answers[node]:
                self.waiting[number] = Message(self.answers[node].pop(0), reply_to=message)
        return ids

    def pull_messages(self, message_ids):
        return [self.waiting.pop(each) for each in message_ids if each in self.waiting]


@pytest.fixture
def coordinator(tmp_path):
    return lay_out(tmp_path / "coordinator")


def told(site, files=(), **facts):
    return packed(dict(files), {"site": site, "failed": False, **facts})


def delta_of(plan, home, site):
    """What a site without clips answers."""
    keys, store = SiteKeys(home), lay_out(home, {}).store("local")
    keys.publish(store, site)
    key = layout.public_key_key(site)
    content = sealed(plan, keys.private_key(site), site=site)
    return told(site, {key: store.get(key), layout.sent_key(ROUND, site, DELTA): content})


def carry(federation, grid, rounds=6):
    """Carry the round for a few looks."""
    left = iter(range(rounds))

    def sleep(_):
        if next(left, None) is None:
            raise TimeoutError

    courier = Courier(grid, federation.store("local"), pause_s=0.0, sleep=sleep)
    with pytest.raises(TimeoutError):
        serve(courier, ROUND)


def test_the_apps_of_a_site_are_thin():
    program = "import sys, json, orchestration.flower.client_app; print(json.dumps([*sys.modules]))"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert not {"torch", "dagster", "polars", "pyarrow"} & set(json.loads(answer.stdout))


def test_files_and_facts_survive_a_message():
    files, facts = {"a/b": bytes(range(256)), "empty": b""}, {"round": ROUND, "sites": ["aws"]}
    assert unpacked(packed(files, facts)) == (files, facts)


def test_a_message_of_somebody_else_is_refused():
    from flwr.app import RecordDict

    with pytest.raises(MalformedRecordError, match="message over Flower"):
        unpacked(RecordDict())


def test_every_node_is_asked_once_and_its_delta_becomes_a_file(coordinator, tmp_path):
    plan = plan_round(coordinator)
    sites = dict(enumerate(HOMES))
    grid = Grid({node: [delta_of(plan, tmp_path / site, site)] for node, site in sites.items()})
    carry(coordinator, grid)

    assert Outbox(coordinator.store("local")).senders(ROUND, DELTA) == sorted(HOMES)
    assert grid.asked == [0, 1, 2]


def test_a_silent_a_foreign_and_a_failing_node_hold_nobody_up(coordinator, tmp_path):
    plan = plan_round(coordinator)
    late = [told("azure", failed=True), delta_of(plan, tmp_path / "azure", "azure")]
    grid = Grid({1: [], 2: [told("oracle")], 3: late})
    carry(coordinator, grid)

    assert Outbox(coordinator.store("local")).senders(ROUND, DELTA) == ["azure"]
    assert sorted(grid.asked) == [1, 2, 3, 3]


def test_what_came_before_a_restart_is_not_asked_for(coordinator, tmp_path):
    plan = plan_round(coordinator)
    carry(coordinator, Grid({1: [delta_of(plan, tmp_path / "aws", "aws")]}))
    grid = Grid({7: [delta_of(plan, tmp_path / "gcp", "gcp")]})
    carry(coordinator, grid)

    assert Outbox(coordinator.store("local")).senders(ROUND, DELTA) == ["aws", "gcp"]


def test_nobody_is_asked_after_the_deadline(coordinator):
    plan_round(coordinator, opened_at="2020-01-01T00:00:00+00:00")
    grid = Grid({1: []})
    carry(coordinator, grid)
    assert grid.asked == []


def test_a_secure_round_is_left_alone_and_said_so(coordinator, caplog):
    plan_round(coordinator, aggregation=Aggregation(secure=True))
    grid = Grid({1: []})
    serve(Courier(grid, coordinator.store("local")), ROUND)
    assert (grid.asked, "need a common store" in caplog.text) == ([], True)


def test_a_round_that_has_no_plan_is_an_error(coordinator):
    with pytest.raises(UnknownKeyError):
        serve(Courier(Grid({}), coordinator.store("local")), "r0009")


def test_a_site_that_is_not_asked_answers_at_once(monkeypatch):
    monkeypatch.setattr(client_app, "work_in_child", None)
    asked = packed({}, {"round": ROUND, "sites": ["gcp"]})
    answer = unpacked(client_app.answer(asked, "aws", "delta"))
    assert answer == ({}, {"site": "aws", "failed": False})


def test_why_a_site_failed_stays_in_its_log(monkeypatch, caplog):
    def fail(*args, **kwargs):
        raise JobFailedError("the caption was 'tokyo by day'")

    monkeypatch.setattr(client_app, "work_in_child", fail)
    asked = packed({}, {"round": ROUND, "sites": ["aws"]})
    answer = unpacked(client_app.answer(asked, "aws", "delta"))
    assert answer == ({}, {"site": "aws", "failed": True})
    assert "tokyo by day" in caplog.text


def test_a_node_without_a_site_says_how_to_start_it():
    with pytest.raises(MalformedRecordError, match="--node-config"):
        client_app.site_of({"partition-id": 1})


def test_a_file_cannot_lead_out_of_the_parcel(tmp_path):
    with pytest.raises(MalformedRecordError, match="within the store"):
        client_app.write_files(tmp_path / "in", {"../../evil": b"x"})
