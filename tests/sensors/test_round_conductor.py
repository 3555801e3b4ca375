from dataclasses import replace
from datetime import UTC, datetime

import dagster as dg
import pytest

from assets.evaluation import END_TAG
from sensors.round_conductor import build_round_conductor
from tests.sensors.rounds import JOBS, end, open_round, record_run
from worldloop import layout
from worldloop.federation.rounds import Aggregation, Terms

FAILED, SUCCESS, STARTED = (
    dg.DagsterRunStatus.FAILURE,
    dg.DagsterRunStatus.SUCCESS,
    dg.DagsterRunStatus.STARTED,
)
NOW = datetime.now(UTC).isoformat()
SITES = ("aws", "gcp", "local")


def tick(house):
    names = ("delta_job", "phase_job", "adapter_job", "scores_job", "verdict_job")
    sensor = build_round_conductor(*(JOBS[name] for name in names))
    resources = {"store": house.store, "federation": house.resources["federation"]}
    with dg.build_sensor_context(
        instance=house.instance, resources=resources, sensor_name="round_conductor"
    ) as context:
        return sensor(context)


def keys(result):
    return [request.run_key for request in result.run_requests]


def send(house, name, *sites):
    for site in sites:
        house.store.put(layout.sent_key("r0001", site, name), b"sent")


def aggregate(house):
    for name in ("adapter.safetensors", "adapter.json"):
        house.store.put(layout.adapter_key("r0001", name), b"made")


@pytest.fixture
def trained(house):
    """An open round whose sites were all asked to train."""
    open_round(house, opened_at=NOW)
    for site in SITES:
        record_run(house, "delta_job", f"r0001|{site}", STARTED)
    return house


def test_every_planned_site_is_asked_to_train_with_its_own_run_key(house):
    open_round(house, opened_at=NOW)

    result = tick(house)

    assert keys(result) == [f"r0001/delta/{site}" for site in SITES]
    assert str(result.run_requests[0].partition_key) == "r0001|aws"
    assert result.run_requests[0].job_name == "delta_job"


def test_while_sites_train_it_says_how_many_are_in(trained):
    send(trained, "delta.bin", "aws")

    assert tick(trained).skip_message.startswith("r0001: 1 of 3 deltas are in; the deadline is")


def test_the_last_delta_asks_for_the_adapter(trained):
    send(trained, "delta.bin", *SITES)

    (request,) = tick(trained).run_requests

    assert (request.run_key, request.job_name) == ("r0001/adapter", "adapter_job")
    assert request.partition_key == "r0001"


def test_a_deadline_with_quorum_asks_for_the_adapter_and_without_for_the_verdict(house):
    open_round(house)  # planned long ago
    for site in SITES:
        record_run(house, "delta_job", f"r0001|{site}", FAILED)

    assert keys(tick(house)) == ["r0001/verdict"]
    send(house, "delta.bin", "aws", "gcp")
    assert keys(tick(house)) == ["r0001/adapter"]


def test_an_adapter_is_scored_at_every_site_and_then_judged(trained):
    aggregate(trained)

    assert keys(tick(trained)) == [f"r0001/scores/{site}" for site in SITES]
    for site in SITES:
        record_run(trained, "scores_job", f"r0001|{site}", SUCCESS)
    assert keys(tick(trained)) == ["r0001/verdict"]


def test_a_failed_run_that_will_be_retried_is_waited_for(trained):
    send(trained, "delta.bin", *SITES)
    record_run(trained, "adapter_job", "r0001", FAILED, **{"dagster/will_retry": "true"})

    assert "its adapter is being made" in tick(trained).skip_message


def test_a_verdict_that_failed_is_followed_by_a_run_that_ends_the_round(trained):
    aggregate(trained)
    record_run(trained, "verdict_job", "r0001", FAILED)

    (request,) = tick(trained).run_requests

    assert (request.run_key, request.job_name) == ("r0001/end", "verdict_job")
    assert request.tags[END_TAG] == "r0001"
    record_run(trained, "verdict_job", "r0001", FAILED, **{END_TAG: "r0001"})
    assert "could not be ended" in tick(trained).skip_message


def test_a_run_that_somebody_started_by_hand_counts(house):
    open_round(house, opened_at=NOW)
    record_run(house, "delta_job", "r0001|gcp", STARTED)
    record_run(house, "delta_job", "r0009|aws", STARTED)  # of another round

    assert keys(tick(house)) == ["r0001/delta/aws", "r0001/delta/local"]


def test_a_round_that_is_over_asks_for_nothing(house):
    plan = open_round(house, opened_at=NOW)
    end(house, plan, "refused")

    assert tick(house).skip_message == "No round is open."


def test_rounds_that_are_open_at_once_are_each_carried(house):
    open_round(house, opened_at=NOW)
    open_round(house, "r0002", opened_at=NOW, terms=replace(Terms(), quorum=1))

    assert {key[:5] for key in keys(tick(house))} == {"r0001", "r0002"}


def test_a_secure_round_is_asked_for_phase_by_phase(house):
    open_round(house, opened_at=NOW, aggregation=Aggregation(secure=True))
    found = tick(house).run_requests

    assert [request.run_key for request in found] == [f"r0001/delta/{site}/1" for site in SITES]
    assert str(found[0].partition_key) == "r0001|aws"
    for request in found:
        record_run(house, "delta_job", str(request.partition_key), STARTED, **request.tags)
    assert "0 sites have sent what phase 1" in tick(house).skip_message


def test_a_secure_round_without_enough_sites_in_time_is_ended(house):
    open_round(house, aggregation=Aggregation(secure=True))  # planned long ago

    assert keys(tick(house)) == ["r0001/verdict"]


def test_it_writes_nothing_itself(house):
    open_round(house)
    before = house.store.list("")

    tick(house)

    assert house.store.list("") == before


def test_in_the_graph_it_runs_from_the_start_and_the_two_that_open_things_do_not(house):
    graph = house.definitions()
    status = {
        name: graph.resolve_sensor_def(name).default_status
        for name in ("round_conductor", "retraining", "regeneration")
    }

    running, stopped = dg.DefaultSensorStatus.RUNNING, dg.DefaultSensorStatus.STOPPED
    assert status == {"round_conductor": running, "retraining": stopped, "regeneration": stopped}


@pytest.fixture
def by_an_agent(house):
    """The site `gcp` is carried by an agent of its own."""
    path = house.root / "sites.toml"
    path.write_text(path.read_text().replace("[sites.gcp]", "[sites.gcp]\nagent = true"))
    return house


def test_an_agent_s_site_is_asked_for_nothing_and_waited_for(by_an_agent):
    open_round(by_an_agent, opened_at=NOW)
    asked = keys(tick(by_an_agent))
    for site in ("aws", "local"):
        record_run(by_an_agent, "delta_job", f"r0001|{site}", SUCCESS)
    send(by_an_agent, "delta.bin", "aws", "local")

    assert asked == ["r0001/delta/aws", "r0001/delta/local"]
    assert "2 of 3 deltas are in; gcp left to agents of their own" in tick(by_an_agent).skip_message
    send(by_an_agent, "delta.bin", "gcp")
    assert keys(tick(by_an_agent)) == ["r0001/adapter"]


def test_an_agent_may_measure_until_the_deadline(by_an_agent):
    open_round(by_an_agent, opened_at=NOW)
    aggregate(by_an_agent)
    asked = keys(tick(by_an_agent))
    for site in ("aws", "local"):
        record_run(by_an_agent, "scores_job", f"r0001|{site}", SUCCESS)
    send(by_an_agent, "scores.json", "aws", "local")

    assert asked == ["r0001/scores/aws", "r0001/scores/local"]
    assert "gcp left to agents" in tick(by_an_agent).skip_message


def test_no_phase_is_asked_of_an_agent_s_site(by_an_agent):
    open_round(by_an_agent, opened_at=NOW, aggregation=Aggregation(secure=True))

    result = tick(by_an_agent)

    assert keys(result) == ["r0001/delta/aws/1", "r0001/delta/local/1"]
    assert [request.job_name for request in result.run_requests] == ["delta_job"] * 2


@pytest.fixture
def without_gcp(house):
    """The site `gcp` was taken out of the sites file while its round is open."""
    path = house.root / "sites.toml"
    path.write_text(path.read_text().split("[sites.gcp]")[0])
    return house


def test_a_site_that_is_taken_out_in_mid_round_keeps_nobody_else_from_being_asked(without_gcp):
    open_round(without_gcp, opened_at=NOW)

    assert keys(tick(without_gcp)) == ["r0001/delta/aws", "r0001/delta/local"]
    for site in ("aws", "local"):
        record_run(without_gcp, "delta_job", f"r0001|{site}", SUCCESS)
    send(without_gcp, "delta.bin", "aws", "local")
    assert "gcp not in sites.toml any more" in tick(without_gcp).skip_message


def test_scores_of_a_site_that_was_taken_out_are_not_waited_for(without_gcp):
    open_round(without_gcp, opened_at=NOW)
    aggregate(without_gcp)

    assert keys(tick(without_gcp)) == ["r0001/scores/aws", "r0001/scores/local"]
    for site in ("aws", "local"):
        record_run(without_gcp, "scores_job", f"r0001|{site}", SUCCESS)
    send(without_gcp, "scores.json", "aws", "local")
    assert keys(tick(without_gcp)) == ["r0001/verdict"]


def test_no_phase_of_a_secure_round_is_ended_by_a_site_that_was_taken_out(without_gcp):
    open_round(without_gcp, aggregation=Aggregation(secure=True))  # planned long ago
    for site in SITES:
        without_gcp.store.put(layout.public_key_key(site), b"key")
    send(without_gcp, "secure-1.json", "gcp", "local")

    assert keys(tick(without_gcp)) == ["r0001/delta/local/1/late"]
