"""Deltas as the coordinator takes them: what is read, what is computed, and what a training leaves behind."""

import threading
from pathlib import Path

import dagster as dg
import pytest

from assets.site_delta import footage_folder
from resources import failpoints, round_deltas
from resources.round_deltas import gather
from resources.round_files import read_adapter_record
from resources.site_footage import SiteFootage
from tests.assets import rounds as federation_of_three
from tests.assets.rounds import HOMES, MadeUpRounds


@pytest.fixture
def rounds(tmp_path):
    with dg.DagsterInstance.ephemeral() as instance:
        house = MadeUpRounds(tmp_path, instance)
        house.film()
        yield house


def test_a_delta_that_is_too_long_for_its_adapter_is_refused_and_never_read(rounds, monkeypatch):
    rounds.plan_round()
    for site in HOMES:
        rounds.train(site)
    rounds.execute("adapter_job", "r0001")
    rounds.plan_round("r0002", waves=["w0001"], base="r0001")
    for site in ("aws", "azure"):
        rounds.train(site, "r0002")
    endless = rounds.sent("gcp", key="r0002")
    endless.parent.mkdir(parents=True)
    endless.write_bytes(bytes(1 << 20))
    read, get = [], type(rounds.store).get
    monkeypatch.setattr(
        type(rounds.store), "get", lambda store, key: read.append(key) or get(store, key)
    )
    rounds.execute("adapter_job", "r0002")

    refused = read_adapter_record(rounds.store, "r0002").of("gcp")
    assert (refused.status, refused.size_bytes) == ("refused", 1 << 20)
    assert "found '1048576 bytes', expected at most" in refused.reason
    assert "rounds/r0002/sites/aws/delta.bin" in read
    assert "rounds/r0002/sites/gcp/delta.bin" not in read


def test_what_a_round_starts_from_is_made_once_for_all_its_sites(rounds, monkeypatch):
    rounds.plan_round()
    for site in HOMES:
        rounds.train(site)
    made, start = [], round_deltas.start_from_shapes
    monkeypatch.setattr(
        round_deltas, "start_from_shapes", lambda *asked: made.append(asked) or start(*asked)
    )

    assert gather(rounds.store, rounds.round_plan()).num_accepted == 3
    assert len(made) == 1


class KilledError(BaseException):
    """As if the process had ended."""


def scratch(house, site):
    folder = house.resources["staging"].folder("r0001", site)
    return sorted(path.name for path in folder.iterdir())


def test_state_and_output_of_a_training_are_there_until_its_delta_was_sent(rounds, monkeypatch):
    trained = federation_of_three._trained

    def with_state(spec, **how):
        Path(spec.state_dir).mkdir(parents=True)
        (Path(spec.state_dir) / "step-4.safetensors").write_bytes(b"state")
        return trained(spec, **how)

    def die(name):
        if name == "site_delta.before_send":
            raise KilledError(name)

    monkeypatch.setattr(federation_of_three, "_trained", with_state)
    monkeypatch.setattr(failpoints, "_watchers", [die])
    rounds.plan_round()
    with pytest.raises(KilledError):
        rounds.train("aws")
    assert scratch(rounds, "aws") == ["state", "trained"]
    monkeypatch.setattr(failpoints, "_watchers", [])
    monkeypatch.setattr(federation_of_three, "_trained", trained)
    rounds.train("aws")

    assert scratch(rounds, "aws") == []


def test_no_other_round_stages_the_site_s_footage_while_its_trainer_reads_it(rounds, monkeypatch):
    rounds.plan_round()
    found = []

    def watched(work):
        def run(spec, **how):
            federation = rounds.resources["federation"]
            other = SiteFootage(federation, "aws", footage_folder(federation, "aws"))
            told = []
            waits = threading.Thread(
                target=lambda: other.in_use(told.append).__enter__(), daemon=True
            )
            waits.start()
            waits.join(0.2)
            found.append(waits.is_alive())
            assert told or not found[-1]
            return work(spec, **how)

        return run

    for name in ("_trained", "_measured"):
        monkeypatch.setattr(federation_of_three, name, watched(getattr(federation_of_three, name)))
    for site in ("aws", "gcp"):
        rounds.train(site)
    rounds.execute("adapter_job", "r0001")
    rounds.score("aws")

    assert found == [True, False, True]
