"""Rounds through the real definitions: plan, deltas, adapter, scores, verdict, promotion, and what goes wrong."""

import json
from dataclasses import replace

import dagster as dg
import pytest

from assets.evaluation import END_TAG
from resources.checkpoint_registry import CheckpointRegistry
from resources.round_files import read_adapter_record, read_participants, read_round_adapter
from resources.round_samples import work_of_samples
from tests.assets.rounds import ASKED, HOMES, LOOSE, MODEL, MadeUpRounds, Rounds, files_of
from worldloop.federation.envelopes import read_unverified
from worldloop.federation.gates import GATES
from worldloop.federation.privacy import privacy_spent
from worldloop.layout import residual_key
from worldloop.seeds import canonical_json


@pytest.fixture
def rounds(tmp_path):
    with dg.DagsterInstance.ephemeral() as instance:
        house = MadeUpRounds(tmp_path, instance)
        house.film()
        ASKED.clear()
        yield house


def participation(house, key="r0001"):
    return {one.site: one for one in read_adapter_record(house.store, key).participation}


def carry(house, key="r0001", **config):
    """A whole round."""
    house.plan_round(key, **config)
    return finish(house, key)


def finish(house, key):
    """A round from its training on."""
    for site in HOMES:
        house.train(site, key)
    house.execute("adapter_job", key)
    for site in HOMES:
        house.score(site, key)
    return house.execute("verdict_job", key, raises=False)


def test_a_round_goes_from_its_plan_to_a_promoted_checkpoint(rounds):
    result = carry(rounds)

    assert result.success
    assert rounds.outcome().outcome == "promoted"
    assert rounds.resources["registry"].main("tiny-cosmos-1.0-text2world") == "r0001"
    log = rounds.federation.log("local")
    assert log.read("rounds")["outcome"].to_list() == ["promoted"]
    assert log.read("round_waves")["wave"].to_list() == ["w0001"]
    assert log.read("round_deltas")["status"].to_list() == ["accepted"] * 3
    files = rounds.metadata("promoted_checkpoint")["files"]
    assert {"README.md", "pytorch_lora_weights.safetensors", "adapter_config.json"} <= set(files)


def test_the_ledger_settles_all_that_a_round_used_and_nothing_stays_reserved(rounds):
    ledger = rounds.resources["ledger"]
    ledger.reserve("r0001", {"cpu_s": 9000.0})
    carry(rounds)

    num_sites, lines = len(HOMES), {line.kind: line for line in ledger.today()}
    samples = work_of_samples(rounds.store, "r0001")
    # one site has no held-out clip to measure
    known = {"train": 1.0 * num_sites, "measure": 2.0 * (num_sites - 1), "judge": 3.0}
    assert samples["cpu_s"] >= 0
    assert lines["cpu_s"].reserved == 0
    assert ledger.settled_today("r0001/verdict")["cpu_s"] == known["judge"]
    used = ledger.settled_today("r0001")["cpu_s"]
    assert used == pytest.approx(sum(known.values()) + samples["cpu_s"])


def test_a_researcher_sees_curves_participation_bytes_and_seconds(rounds):
    carry(rounds)

    adapter, delta = rounds.metadata("adapter"), rounds.metadata("site_delta")
    assert "| aws | accepted |" in adapter["participation"]
    assert adapter["size_bytes"] > 0
    for shown in (adapter["loss_curves"], delta["loss_curve"]):
        assert shown.startswith("![loss by step")
        assert len(shown) < 1000  # what is longer stands behind a click
    assert {"size_bytes", "took_s", "num_clips"} <= delta.keys()
    assert rounds.metadata("evaluation")["gates_passed"] == f"{len(GATES)} of {len(GATES)}"
    assert {"wall_s", "gpu_s"} <= rounds.metadata("site_scores").keys()


def test_the_next_round_goes_on_from_the_promoted_one(rounds):
    carry(rounds)
    rounds.film("w0002")
    carry(rounds, "r0002")

    plan, first = rounds.round_plan("r0002"), read_round_adapter(rounds.store, "r0001")
    assert (plan.base.adapter, plan.waves) == ("r0001", ("w0002",))
    record = read_adapter_record(rounds.store, "r0002")
    assert record.start_sha256 == read_adapter_record(rounds.store, "r0001").adapter_sha256
    assert read_round_adapter(rounds.store, "r0002").keys() == first.keys()
    assert rounds.outcome("r0002").outcome == "promoted"


def test_no_caption_and_no_clip_stands_at_the_coordinator_or_in_the_event_log(rounds):
    carry(rounds)
    stored = files_of(rounds.root / "site" / "rounds")
    events = [
        str(entry.dagster_event)
        for run in rounds.instance.get_runs()
        if run.job_name != "round_job"
        for entry in rounds.instance.all_logs(run.run_id)
    ]

    assert not [name for name, content in stored.items() if b"a secret of" in content]
    assert events
    assert not [text for text in events if "a secret of" in text]


def test_a_gate_that_fails_ends_the_round_as_refused(rounds):
    result = carry(rounds, trial={"limits": {**LOOSE, "min_held_out_clips": 100.0}})

    assert not result.success
    outcome = rounds.outcome()
    assert outcome.outcome == "refused"
    assert "held_out_loss" in outcome.failed_gates
    assert "100 are needed" in outcome.reason
    assert rounds.resources["registry"].main("tiny-cosmos-1.0-text2world") == ""
    assert (
        rounds.instance.get_latest_materialization_event(dg.AssetKey("promoted_checkpoint")) is None
    )
    assert rounds.federation.log("local").read("rounds")["outcome"].to_list() == ["refused"]


def test_a_quorum_goes_on_without_a_dead_site(rounds):
    rounds.harm(dead=["azure"])
    rounds.plan_round()
    results = {site: rounds.train(site, raises=False).success for site in HOMES}
    rounds.execute("adapter_job", "r0001")

    assert results == {"aws": True, "azure": False, "gcp": True}
    found = participation(rounds)
    assert {site: one.status for site, one in found.items()} == {
        "aws": "accepted",
        "azure": "missing",
        "gcp": "accepted",
    }
    assert sum(one.weight for one in found.values()) == pytest.approx(1)


def test_a_round_without_quorum_ends_as_failed_with_one_line(rounds):
    rounds.plan_round()
    rounds.train("aws")

    assert not rounds.execute("adapter_job", "r0001", raises=False).success
    rounds.execute("verdict_job", "r0001", raises=False)
    outcome = rounds.outcome()
    assert outcome.outcome == "failed"
    assert outcome.reason == (
        "1 of 3 deltas can be used, the quorum is 2: azure missing; gcp missing"
    )


def altered(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def unsigned(content: bytes) -> bytes:
    _, payload = read_unverified(content)
    head = content[: len(content) - len(payload) - 64]
    return head + bytes(64) + payload


@pytest.mark.parametrize(
    ("harm", "words"), [(altered, "another hash"), (unsigned, "signature: found 'none'")]
)
def test_a_delta_that_was_tampered_with_is_refused_by_name(rounds, harm, words):
    rounds.plan_round()
    for site in HOMES:
        rounds.train(site)
    path = rounds.sent("gcp")
    path.write_bytes(harm(path.read_bytes()))

    result = rounds.execute("adapter_job", "r0001")
    refused = participation(rounds)["gcp"]
    assert (refused.status, refused.weight) == ("refused", 0)
    assert words in refused.reason
    check = next(iter(result.get_asset_check_evaluations()))
    assert (check.check_name, check.passed) == ("every_delta_was_accepted", False)
    assert "gcp" in check.metadata["left_out"].value


def test_a_replayed_delta_is_refused_by_name(rounds):
    carry(rounds)
    rounds.film("w0002")
    rounds.plan_round("r0002")
    for site in ("aws", "azure"):
        rounds.train(site, "r0002")
    replayed = rounds.sent("gcp", key="r0002")
    replayed.parent.mkdir(parents=True)
    replayed.write_bytes(rounds.sent("gcp").read_bytes())
    rounds.execute("adapter_job", "r0002")

    reason = participation(rounds, "r0002")["gcp"].reason
    assert "delta, round: found 'r0001', expected 'r0002'. It is a replay" in reason


def test_a_poisoned_delta_is_refused_by_its_length(rounds):
    rounds.harm(poisoned=["gcp"])
    rounds.plan_round(aggregation={"max_norm": 1.0})
    for site in ("aws", "azure"):
        rounds.train(site)
    failed = rounds.train("gcp", raises=False)
    rounds.execute("adapter_job", "r0001")

    assert failed.success
    assert "norm: found" in participation(rounds)["gcp"].reason
    assert read_adapter_record(rounds.store, "r0001").update_norm < 0.01


def test_a_poisoned_site_is_outvoted_by_a_median(rounds):
    rounds.harm(poisoned=["gcp"])
    rounds.plan_round(aggregation={"strategy": "median"})
    for site in HOMES:
        rounds.train(site)
    rounds.execute("adapter_job", "r0001")

    record = read_adapter_record(rounds.store, "r0001")
    assert record.of("gcp").norm > 10
    assert record.update_norm < 0.01


def test_a_site_that_says_it_has_more_clips_than_were_released_is_refused(rounds, monkeypatch):
    from assets import site_delta

    honest = site_delta._header
    monkeypatch.setattr(
        site_delta,
        "_header",
        lambda *a: type(h := honest(*a))(**{**vars(h), "num_clips": 1000 * h.num_clips}),
    )
    rounds.plan_round(terms={"quorum": 1})
    rounds.train("gcp")
    monkeypatch.undo()
    rounds.train("aws")
    rounds.execute("adapter_job", "r0001")

    assert "at most the 2 clips" in participation(rounds)["gcp"].reason


def test_an_adapter_that_is_made_again_has_the_same_bytes_whoever_comes_late(rounds):
    rounds.plan_round()
    for site in ("aws", "azure"):
        rounds.train(site)
    rounds.execute("adapter_job", "r0001")
    folder = rounds.root / "site" / "rounds" / "r0001" / "adapter"
    before = files_of(folder)
    for name in ("adapter.safetensors", "adapter.json"):  # killed after it was decided who counts
        (folder / name).unlink()
    delta = MadeUpRounds.sent(rounds, "gcp")
    late = rounds.sent("aws").read_bytes()
    delta.parent.mkdir(parents=True)
    delta.write_bytes(late)

    rounds.execute("adapter_job", "r0001")
    assert files_of(folder) == before
    assert set(read_participants(rounds.store, "r0001")) == {"aws", "azure"}


def test_a_published_adapter_is_never_changed(rounds):
    rounds.plan_round()
    for site in HOMES:
        rounds.train(site)
    rounds.execute("adapter_job", "r0001")
    path = rounds.root / "site/rounds/r0001/adapter/adapter.safetensors"
    path.write_bytes(altered(path.read_bytes()))

    result = rounds.execute("adapter_job", "r0001", raises=False)
    assert not result.success
    assert (
        "never changes" in result.get_step_failure_events()[0].step_failure_data.error.to_string()
    )


def test_a_delta_that_stands_is_not_made_again(rounds):
    rounds.plan_round()
    rounds.train("aws")
    before = rounds.sent("aws").read_bytes()
    rounds.train("aws")

    assert ASKED == [("aws", "train")]
    assert rounds.sent("aws").read_bytes() == before


class KilledError(BaseException):
    """As if the process had ended."""


@pytest.mark.parametrize(
    "moment", ["site_delta.trained", "site_delta.before_send", "site_delta.sent"]
)
def test_a_delta_killed_at_any_moment_heals(rounds, monkeypatch, moment):
    from resources import failpoints

    def die(name):
        if name == moment:
            raise KilledError(name)

    monkeypatch.setattr(failpoints, "_watchers", [die])
    rounds.plan_round()
    with pytest.raises(KilledError):
        rounds.train("gcp")
    monkeypatch.setattr(failpoints, "_watchers", [])
    rounds.train("gcp")
    rounds.train("aws")

    rounds.execute("adapter_job", "r0001")
    found = participation(rounds)["gcp"]
    kept = rounds.federation.store("gcp").get(residual_key("r0001"))
    assert found.status == "accepted"
    assert kept[:64].decode() == found.content_sha256


def test_a_site_without_clips_says_so_and_the_round_goes_on(rounds):
    rounds.plan_round(sites=["aws", "gcp", "local"])
    for site in ("aws", "gcp", "local"):
        rounds.train(site)
    rounds.execute("adapter_job", "r0001")

    assert participation(rounds)["local"].status == "empty"
    assert rounds.metadata("site_delta")["status"] == "empty"


def test_a_site_that_is_not_asked_is_skipped_with_a_note(rounds):
    rounds.plan_round(sites=["aws", "azure"])
    rounds.train("gcp")

    assert ASKED == []
    assert "does not ask" in rounds.metadata("site_delta")["note"]


def test_a_verdict_killed_before_its_outcome_is_ended_as_what_it_was(rounds, monkeypatch):
    from resources import failpoints

    def die(name):
        if name == "promotion.promoted":
            raise KilledError(name)

    monkeypatch.setattr(failpoints, "_watchers", [die])
    assert not carry(rounds).success
    monkeypatch.setattr(failpoints, "_watchers", [])
    assert rounds.outcome() is None
    rounds.definitions().resolve_job_def("verdict_job").execute_in_process(
        instance=rounds.instance, partition_key="r0001", tags={END_TAG: "r0001"}
    )

    assert rounds.outcome().outcome == "promoted"
    assert rounds.federation.log("local").read("rounds").height == 1


@pytest.mark.parametrize("tags", [{}, {END_TAG: "r0001"}])
def test_a_promotion_killed_between_its_decision_and_its_ref_is_used(rounds, monkeypatch, tags):
    def die(*_):
        raise KilledError("between history and ref")

    with monkeypatch.context() as killed:
        killed.setattr(CheckpointRegistry, "_point", die)
        assert not carry(rounds).success
    rounds.definitions().resolve_job_def("verdict_job").execute_in_process(
        instance=rounds.instance, partition_key="r0001", tags=tags
    )

    assert rounds.outcome().outcome == "promoted"
    assert rounds.resources["registry"].main("tiny-cosmos-1.0-text2world") == "r0001"


def test_an_outcome_killed_before_its_log_is_settled_by_the_next_run(rounds, monkeypatch):
    from resources import failpoints

    def die(name):
        if name == "outcome.before_log":
            raise KilledError(name)

    with monkeypatch.context() as killed:
        killed.setattr(failpoints, "_watchers", [die])
        assert not carry(rounds).success
    rounds.execute("verdict_job", "r0001")

    assert rounds.federation.log("local").read("rounds").height == 1
    assert rounds.resources["ledger"].settled_today("r0001")["cpu_s"] >= 3.0  # a second each


def test_scores_of_clips_that_were_not_held_out_are_left_out(rounds):
    rounds.plan_round()
    for site in HOMES:
        rounds.train(site)
    rounds.execute("adapter_job", "r0001")
    for site in HOMES:
        rounds.score(site)
    path = rounds.sent("aws", "scores.json")
    path.write_bytes(path.read_bytes().replace(b'"before":0.5', b'"before":9.5'))
    rounds.execute("verdict_job", "r0001", raises=False)

    assert rounds.outcome().failed_gates[0] == "site_scores"


def test_noise_is_added_and_what_it_costs_is_said(rounds):
    rounds.plan_round(aggregation={"clip_norm": 0.01, "noise_multiplier": 2.0})
    for site in HOMES:
        rounds.train(site)
    rounds.execute("adapter_job", "r0001")

    record = read_adapter_record(rounds.store, "r0001")
    assert 0 < record.facts["epsilon"] < 10
    assert record.facts["num_private_rounds"] == 1
    assert all(one.norm > 0.01 for one in record.accepted)  # 44 numbers of noise


def test_noise_protects_nothing_of_a_line_that_had_a_round_without(rounds):
    noisy = {"clip_norm": 0.01, "noise_multiplier": 2.0}
    found = []
    for key, aggregation in (("r0001", {}), ("r0002", noisy)):
        base = {} if key == "r0001" else {"base": "r0001"}
        rounds.plan_round(key, waves=["w0001"], aggregation=aggregation, **base)
        for site in HOMES:
            rounds.train(site, key)
        rounds.execute("adapter_job", key)
        found.append(read_adapter_record(rounds.store, key).facts)

    assert "epsilon" not in found[0].keys() | found[1].keys()


def test_a_line_costs_what_its_round_with_the_least_noise_would_cost_each_time(rounds):
    for key, noise in (("r0001", 1.0), ("r0002", 4.0)):
        base = {} if key == "r0001" else {"base": "r0001"}
        noisy = {"clip_norm": 0.01, "noise_multiplier": noise}
        rounds.plan_round(key, waves=["w0001"], aggregation=noisy, **base)
        for site in HOMES:
            rounds.train(site, key)
        rounds.execute("adapter_job", key)

    spent = read_adapter_record(rounds.store, "r0002").facts["epsilon"]
    assert spent == privacy_spent(1.0, 2, delta=1e-5).epsilon


def test_a_late_delta_counts_once_and_less_where_the_terms_allow_it(rounds):
    late = {"terms": {"max_staleness": 1}}
    rounds.plan_round(**late)
    for site in ("aws", "azure"):
        rounds.train(site)
    rounds.execute("adapter_job", "r0001")
    rounds.train("gcp")
    for site in ("aws", "azure"):
        rounds.score(site)
    rounds.execute("verdict_job", "r0001")
    rounds.plan_round("r0002", waves=["w0001"], **late)
    for site in ("aws", "azure"):
        rounds.train(site, "r0002")
    rounds.execute("adapter_job", "r0002")

    found = participation(rounds, "r0002")
    assert (found["gcp"].status, found["gcp"].staleness) == ("accepted", 1)
    assert 0 < found["gcp"].weight < found["aws"].weight
    rounds.plan_round("r0003", waves=["w0001"], base="r0002", **late)
    rounds.train("aws", "r0003")
    rounds.train("azure", "r0003")
    rounds.execute("adapter_job", "r0003")
    assert participation(rounds, "r0003")["gcp"].status == "missing"


def test_of_two_rounds_from_nothing_the_second_is_refused_as_nobody_compared_it_with_the_first(
    rounds,
):
    rounds.plan_round()
    rounds.plan_round("r0002", waves=["w0001"])
    finish(rounds, "r0001")
    finish(rounds, "r0002")

    outcome = rounds.outcome("r0002")
    assert outcome.outcome == "refused"
    assert outcome.reason.startswith(
        "r0001 is promoted by now, and the candidate was compared with the base alone"
    )
    assert rounds.resources["registry"].main(MODEL.lower()) == "r0001"


def test_a_new_adapter_that_is_asked_for_takes_the_place_of_what_stands(rounds):
    carry(rounds)
    carry(rounds, "r0002", waves=["w0001"], base="new")

    assert rounds.outcome("r0002").outcome == "promoted"


def test_a_delta_that_comes_between_the_deadline_and_the_verdict_changes_nothing(rounds):
    rounds.plan_round()
    for site in ("aws", "azure"):  # the second one after the verdict was asked for
        rounds.train(site)
    rounds.execute("verdict_job", "r0001", raises=False)
    before = rounds.outcome()
    rounds.train("gcp")
    rounds.execute("verdict_job", "r0001", raises=False)

    assert (before.outcome, rounds.outcome()) == ("failed", before)
    assert "they came after the deadline" in before.reason
    assert not rounds.sent("gcp").exists()


def test_a_receipt_that_cannot_be_drawn_keeps_no_adapter_from_being_made(rounds):
    rounds.plan_round()
    for site in HOMES:
        rounds.train(site)
    losses = [{"step": step, "loss": sign * 1e308} for step, sign in ((1, 1), (2, -1))]
    path = rounds.sent("gcp", "receipt.json")
    path.write_bytes(canonical_json({**json.loads(path.read_bytes()), "losses": losses}))
    rounds.execute("adapter_job", "r0001")

    assert participation(rounds)["gcp"].status == "accepted"


def test_a_late_delta_weighs_no_more_than_what_was_released_for_its_own_round(rounds, monkeypatch):
    from assets import site_delta

    late, honest = {"terms": {"max_staleness": 1}}, site_delta._header
    rounds.plan_round(**late)
    for site in ("aws", "azure"):
        rounds.train(site)
    rounds.execute("adapter_job", "r0001")
    monkeypatch.setattr(site_delta, "_header", lambda *a: replace(honest(*a), num_clips=10**9))
    rounds.train("gcp")
    monkeypatch.undo()
    rounds.plan_round("r0002", waves=["w0001"], base="r0001", **late)
    for site in ("aws", "azure"):
        rounds.train(site, "r0002")
    rounds.execute("adapter_job", "r0002")

    found = participation(rounds, "r0002")["gcp"]
    assert (found.status, found.staleness) == ("refused", 1)
    assert "at most the 2 clips" in found.reason


@pytest.mark.slow
def test_a_tiny_model_is_trained_measured_and_promoted_for_real(tmp_path):
    with dg.DagsterInstance.ephemeral() as instance:
        house = Rounds(tmp_path, instance)
        house.film()
        house.make_model()
        try:
            result = carry(house, terms={"quorum": 1})  # one site has a held-out city
        finally:
            house.stop_trainers()
        shown = house.metadata("promoted_checkpoint")

    assert result.success
    assert house.outcome().outcome == "promoted"
    assert [one.status for one in house.outcome().participation] == ["accepted"] * 3
    assert "before on the left" in shown["before_and_after"].splitlines()[0]
    assert "![r0001: before | after](data:image/jpeg" in shown["before_and_after"]
