"""What rounds leave behind: everything that nothing needs goes, and nothing that anybody needs."""

import fcntl
import json
import os
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from resources.sweeper import sweep
from tests.conftest import House
from tests.sensors.rounds import MODEL, end, open_round, promote, round_plan
from worldloop import layout
from worldloop.federation.outcomes import AdapterRecord, Participation
from worldloop.federation.rounds import Base, Terms
from worldloop.seeds import canonical_json

TOMORROW = datetime.now(UTC) + timedelta(hours=25)
NEXT_MONTH = datetime.now(UTC) + timedelta(days=30)
FIRST, REFUSED, MAIN, FAILED, NEWEST = "r0001", "r0002", "r0003", "r0004", "r0005"


@pytest.fixture
def rounds(tmp_path):
    """Five rounds: the third is used and goes on from the first; the second and the fourth came to nothing."""
    with dg.DagsterInstance.ephemeral() as instance:
        house = House(tmp_path, instance)
        for key, base, fate in (
            (FIRST, "", "promoted"),
            (REFUSED, FIRST, "refused"),
            (MAIN, FIRST, "promoted"),
            (FAILED, MAIN, "failed"),
            (NEWEST, MAIN, ""),
        ):
            fill(house, key, base, fate)
        yield house


def fill(house, key, base, fate):
    """A round with samples, a residual and an adapter of one site."""
    plan = open_round(
        house, key, sites=("",), base=Base(MODEL, "tiny", adapter=base), terms=Terms(quorum=1)
    )
    for group in ("before", "after", "reference"):
        house.store.put(layout.sample_key(key, group, "000.mp4"), b"clip")
    house.store.put(layout.sample_key(key, "all", "sheet.png"), b"sheet")
    house.store.put(layout.residual_key(key), b"residual")
    house.store.put(layout.moments_key(key), b"moments")
    part = (Participation("", "accepted", content_sha256="ab"),)
    record = AdapterRecord(key, plan.plan_id, "fedavg", "", "", "", 1, 1.0, part, {})
    house.store.put(layout.adapter_key(key, "adapter.json"), canonical_json(record.to_record()))
    if fate == "promoted":
        promote(house, plan)
    elif fate:
        end(house, plan, fate)


def going(house, *, now=TOMORROW, keep_waves=1, **settings):
    return sweep(house.store, now=now, keep_waves=keep_waves, **settings)


def test_samples_go_of_rounds_that_came_to_nothing_and_are_not_the_newest(rounds):
    keys = {one.key for one in going(rounds)}

    clips = {key for key in keys if "/samples/" in key}
    assert clips == {
        layout.sample_key(key, group, "000.mp4")
        for key in (REFUSED, FAILED)
        for group in ("before", "after", "reference")
    }


def test_residuals_stay_for_what_is_used_what_is_open_and_what_can_be_gone_back_to(rounds):
    def residuals(**settings):
        return {one.key for one in going(rounds, **settings) if "/residuals/" in one.key}

    assert residuals(keep_waves=2) == {layout.residual_key(REFUSED)}
    assert residuals(keep_waves=1) == {layout.residual_key(key) for key in (FIRST, REFUSED, FAILED)}


def test_where_an_optimizer_stood_goes_with_the_residual_of_its_delta(rounds):
    for keep_waves in (1, 2):
        keys = {one.key for one in going(rounds, keep_waves=keep_waves)}
        gone = [key for key in (FIRST, REFUSED, MAIN, FAILED, NEWEST)
                if layout.residual_key(key) in keys]  # fmt: skip
        assert {key for key in keys if "/moments/" in key} == {*map(layout.moments_key, gone)}
        assert gone


def test_young_rounds_and_open_ones_lose_nothing(rounds):
    assert going(rounds, now=datetime.now(UTC)) == []
    found = [one.key for one in going(rounds, now=NEXT_MONTH) if NEWEST in one.key]
    assert found == []


def test_what_audits_and_the_registry_need_stays(rounds):
    kept = [key for key, _ in rounds.store.list("registry")]
    sweep(rounds.store, now=NEXT_MONTH, keep_waves=1, apply=True)

    assert [key for key, _ in rounds.store.list("registry")] == kept
    for key in (FIRST, REFUSED, MAIN, FAILED, NEWEST):
        for needed in (
            layout.round_plan_key(key),
            layout.adapter_key(key, "adapter.json"),
            layout.sample_key(key, "all", "sheet.png"),
        ):
            assert rounds.store.exists(needed)
    assert going(rounds, now=NEXT_MONTH) == []


def test_scratch_of_a_round_stays_until_it_is_over_however_old(rounds):
    scratch = rounds.root / "scratch"
    for key in (REFUSED, NEWEST):
        (scratch / "staging" / key / "aws" / "state").mkdir(parents=True)
        (scratch / "staging" / key / "aws" / "unmasked.delta").write_bytes(b"12345")

    found = [one for one in going(rounds, now=NEXT_MONTH, scratch=scratch) if "staging" in one.key]

    assert [(one.key, one.size_bytes) for one in found] == [
        (str(scratch / "staging" / REFUSED / "aws"), 5)
    ]


def test_scratch_that_a_run_works_in_stays(rounds):
    scratch = rounds.root / "scratch"
    (scratch / "staging" / REFUSED / "samples").mkdir(parents=True)
    (scratch / "locks").mkdir()
    with (scratch / "locks" / f"{REFUSED}.coordinator.samples").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert not [one for one in going(rounds, scratch=scratch) if "staging" in one.key]


@pytest.mark.parametrize(
    ("days", "is_open", "goes"), [(30, False, True), (1, False, False), (30, True, False)]
)
def test_staged_footage_goes_when_no_round_is_open_and_none_has_used_it_for_a_week(
    rounds, days, is_open, goes
):
    if not is_open:
        end(rounds, round_plan(NEWEST), "failed")
    folder = rounds.root / "training" / "aws"
    for name in ("train", "held_out", "cache"):
        (folder / name).mkdir(parents=True)
    (folder / "train" / "clips.jsonl").write_text(json.dumps({"name": "x"}))

    now = datetime.now(UTC) + timedelta(days=days)
    found = [one.key for one in going(rounds, now=now, home=rounds.root) if "training" in one.key]

    assert found == (
        [str(folder / name) for name in ("cache", "held_out", "train")] if goes else []
    )


def test_logs_of_trainers_go_when_they_have_ended_and_locks_stay(rounds):
    folder = rounds.root / "trainers"
    folder.mkdir()
    for name in ("aws.log", "aws.log.1", "gcp.log", "aws.lock", "gcp.lock", "aws.starting"):
        (folder / name).write_bytes(b"")
        os.utime(folder / name, (0, 0))
    with (folder / "gcp.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        found = [one.key for one in going(rounds, home=rounds.root) if "trainers" in one.key]

    assert found == [str(folder / "aws.log"), str(folder / "aws.log.1")]
