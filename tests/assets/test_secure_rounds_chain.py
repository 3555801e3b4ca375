"""Secure rounds through the real definitions: masked deltas in four phases, with sites that go away in each."""

from datetime import UTC, datetime

import dagster as dg
import numpy as np
import pytest

from assets.partitions import site_round_key
from resources import secure_rounds
from resources.outbox import Outbox
from resources.round_files import read_adapter_record, read_round_adapter
from resources.secure_rounds import coordinator_turn, read_standing
from resources.site_keys import SiteKeys
from tests.assets import rounds as federation_of_three
from tests.assets.rounds import ASKED, HOMES, LAYERS, TRAINING, MadeUpRounds, files_of
from worldloop.federation.adapters import difference, initial_adapter
from worldloop.federation.envelopes import read_unverified
from worldloop.federation.fixed_point import fixed_point
from worldloop.federation.masking import flattened, read_masked
from worldloop.layout import moments_key, residual_key
from worldloop.seeds import stream

# the coordinator is one of the sites: its own store is the one that must never hold a delta
HOMES_OF_FOUR = {**HOMES, "gcp": ("lima", "berlin"), "local": ("delhi",)}
SITES = "\n".join(
    f"[sites.{name}]\ncities = {[*cities]}\nstore = '{'site' if name == 'local' else f'sites/{name}'}'"
    for name, cities in HOMES_OF_FOUR.items()
)
WEIGHTS = {"aws": 2, "azure": 2, "gcp": 4, "local": 2}
SECURE = {
    "training": {**TRAINING, "learning_rate": 1e-3},
    "aggregation": {"secure": True, "codec": "float32"},
}


@pytest.fixture
def rounds(tmp_path, monkeypatch):
    monkeypatch.setattr(federation_of_three, "HOMES", HOMES_OF_FOUR)
    monkeypatch.setattr(federation_of_three, "SITES", SITES)
    with dg.DagsterInstance.ephemeral() as instance:
        house = MadeUpRounds(tmp_path, instance)
        house.film()
        ASKED.clear()
        yield house


@pytest.fixture
def deadline(monkeypatch):
    """Sets when phases end; far away at first."""

    def put(moment):
        monkeypatch.setattr(secure_rounds, "_deadline", lambda *_: moment)

    put(datetime.max.replace(tzinfo=UTC))
    return put


def trained_delta(plan, site):
    """What the stand-in trainer changes, as a site takes it."""
    start = initial_adapter(plan.seed, LAYERS, plan.training.rank)
    drawn = stream(plan.seed, "stand-in", site)
    end = {n: a + drawn.normal(0, 0.0005, a.shape).astype(np.float32) for n, a in start.items()}
    return difference(end, start)


def phase(house):
    return read_standing(Outbox(house.store), house.round_plan()).phase


def carry(house, deadline, *, gone="", gone_in=9):
    """Run sites phase by phase; one goes away in a phase, whose deadline then passes."""
    for number in range(1, 5):
        here = [site for site in HOMES_OF_FOUR if site != gone or number < gone_in]
        for site in here:
            if phase(house) == number:
                house.train(site)
                check_nothing_is_unmasked(house)
        if phase(house) == number:
            deadline(datetime.min.replace(tzinfo=UTC))
            house.train(here[0])
            deadline(datetime.max.replace(tzinfo=UTC))
        assert phase(house) >= number + 1


def check_nothing_is_unmasked(house):
    """Every delta at the coordinator, which is also the store of one of the sites, is behind a mask."""
    plan, found = house.round_plan(), files_of(house.root / "site")
    numbers = fixed_point(plan, {"any": {"weight_bits": max(WEIGHTS.values()).bit_length()}})
    for name, content in found.items():
        assert "unmasked" not in name
        for site in HOMES_OF_FOUR:
            flat, _ = flattened(trained_delta(plan, site))
            assert flat.tobytes()[:32] not in content
            if name.endswith("delta.bin"):
                header, payload = read_unverified(content)
                assert header.masked
                if header.is_empty:
                    continue
                masked = read_masked(payload).ring
                assert np.mean(masked == numbers.quantised(flat, WEIGHTS[site])) < 0.1


def check_mean(house, survivors):
    plan, made = house.round_plan(), read_round_adapter(house.store, "r0001")
    total = sum(WEIGHTS[site] for site in survivors)
    numbers = fixed_point(plan, {"any": {"weight_bits": max(WEIGHTS.values()).bit_length()}})
    bound = numbers.step * numbers.max_weight / total * len(survivors) / 2 + 1e-7  # + float32
    start = initial_adapter(plan.seed, LAYERS, plan.training.rank)
    for name, each in made.items():
        mean = sum(WEIGHTS[s] * trained_delta(plan, s)[name].astype(np.float64) for s in survivors)
        np.testing.assert_allclose(each - start[name], mean / total, atol=bound, rtol=0)
    assert bound < 2e-7


@pytest.mark.parametrize("gone_in", [1, 2, 3, 4])
def test_a_site_may_go_away_in_any_phase_and_the_adapter_is_the_mean_of_the_others(
    rounds, deadline, gone_in
):
    rounds.plan_round(**SECURE)
    carry(rounds, deadline, gone="azure", gone_in=gone_in)
    rounds.execute("adapter_job", "r0001")

    survivors = {site for site in HOMES_OF_FOUR if site != "azure" or gone_in == 4}
    check_mean(rounds, survivors)
    record = read_adapter_record(rounds.store, "r0001")
    assert {one.site for one in record.accepted} == survivors
    if gone_in < 4:
        assert record.of("azure").reason == f"it missed phase {gone_in} of secure aggregation"
    assert ASKED.count(("gcp", "train")) == 1


def test_a_secure_round_of_16_bits_is_promoted_and_its_masks_are_forgotten(rounds, deadline):
    coarse = {**SECURE, "aggregation": {"secure": True, "codec": "int8"}}
    rounds.plan_round(**coarse)
    carry(rounds, deadline, gone="azure", gone_in=4)
    rounds.execute("adapter_job", "r0001")
    keys = SiteKeys(rounds.root)
    assert keys.round_secrets() == [("azure", "r0001")]  # the others have revealed
    for site in HOMES_OF_FOUR:
        rounds.score(site)

    assert rounds.execute("verdict_job", "r0001").success
    assert rounds.outcome().outcome == "promoted"
    assert keys.round_secrets() == []


def test_neither_length_nor_weight_of_a_masked_delta_is_told(rounds, deadline):
    rounds.plan_round(**SECURE)
    carry(rounds, deadline)

    header, _ = read_unverified(rounds.sent("gcp").read_bytes())
    assert (header.masked, header.norm, header.num_clips) == (True, 0.0, 1)
    assert b"num_clips" not in rounds.sent("gcp", "receipt.json").read_bytes()
    shown = rounds.metadata("site_delta")
    assert not shown.keys() & {"num_clips", "norm", "num_windows"}
    assert (shown["status"], shown["phase"]) == ("trained", 5)


def scratch(house, site):
    folder = house.resources["staging"].folder("r0001", site)
    return sorted(path.name for path in folder.rglob("*"))


def test_the_unmasked_delta_is_kept_until_the_masked_one_was_sent_and_training_leaves_nothing(
    rounds, deadline
):
    rounds.plan_round(**SECURE)
    rounds.train("aws")
    assert scratch(rounds, "aws") == ["unmasked.delta"]
    carry(rounds, deadline)

    assert [scratch(rounds, site) for site in HOMES_OF_FOUR] == [[]] * 4


def test_noise_is_drawn_once_however_often_a_phase_runs(rounds, deadline):
    noisy = {"secure": True, "clip_norm": 0.01, "noise_multiplier": 1.0}
    rounds.plan_round(**{**SECURE, "aggregation": noisy})
    rounds.train("aws")
    folder = rounds.resources["staging"].folder("r0001", "aws")
    before = (folder / "unmasked.delta").read_bytes()
    rounds.train("aws")
    assert (folder / "unmasked.delta").read_bytes() == before
    carry(rounds, deadline)
    rounds.execute("adapter_job", "r0001")

    facts = read_adapter_record(rounds.store, "r0001").facts
    assert facts["epsilon"] == pytest.approx(
        4.73, abs=0.01
    )  # of a site's own noise, not of the sum's


class KilledError(BaseException):
    """As if the process had ended."""


@pytest.mark.parametrize("moment", ["site_delta.trained", "site_delta.before_send"])
def test_a_site_killed_in_a_secure_round_heals(rounds, deadline, monkeypatch, moment):
    from resources import failpoints

    def die(name):
        if name == moment:
            raise KilledError(name)

    rounds.plan_round(**SECURE)
    if moment != "site_delta.trained":
        for (
            site
        ) in HOMES_OF_FOUR:  # the last of them goes on with phase 2, and the next one opens phase 3
            rounds.train(site)
        rounds.train("aws"), rounds.train("azure")
    monkeypatch.setattr(failpoints, "_watchers", [die])
    with pytest.raises(KilledError):
        rounds.train("gcp")
    monkeypatch.setattr(failpoints, "_watchers", [])
    carry(rounds, deadline)
    rounds.execute("adapter_job", "r0001")

    check_mean(rounds, [*HOMES_OF_FOUR])
    kept = rounds.federation.store("gcp").get(residual_key("r0001"))
    assert kept[:64].decode() == read_adapter_record(rounds.store, "r0001").of("gcp").content_sha256


def test_an_optimizer_is_kept_behind_the_masked_delta_and_never_in_the_coordinator_s_store(
    rounds, deadline
):
    training = {**SECURE["training"], "keep_optimizer": True}
    rounds.plan_round(**{**SECURE, "training": training})
    rounds.train("gcp")
    waiting = rounds.resources["staging"].folder("r0001", "gcp") / "moments.safetensors"
    assert waiting.stat().st_mode & 0o777 == 0o600
    carry(rounds, deadline)
    rounds.execute("adapter_job", "r0001")

    sent = read_adapter_record(rounds.store, "r0001").of("gcp").content_sha256
    kept = rounds.federation.store("gcp").get(moments_key("r0001"))
    assert sent.encode() in kept[:4096]
    assert not waiting.exists()
    assert not [name for name, c in files_of(rounds.root / "site").items() if b"exp_avg" in c]


def test_a_site_that_comes_after_its_phase_is_told_and_trains_for_nothing(rounds, deadline):
    rounds.plan_round(**SECURE)
    for site in ("aws", "gcp", "local"):
        rounds.train(site)
    deadline(datetime.min.replace(tzinfo=UTC))
    coordinator_turn(Outbox(rounds.store), rounds.round_plan(), is_late=True)
    rounds.train("azure")

    assert ("azure", "train") not in ASKED
    assert "missed this site in phase 1" in rounds.metadata("site_delta")["note"]


def test_a_site_without_clips_says_so_and_the_others_are_summed(rounds, deadline):
    rounds.plan_round(
        **SECURE, trial={"held_out_cities": ["rome", "cairo", "delhi"]}, sites=[*HOMES_OF_FOUR]
    )
    carry(rounds, deadline)
    rounds.execute("adapter_job", "r0001")

    check_mean(rounds, [*HOMES])
    assert read_adapter_record(rounds.store, "r0001").of("local").status == "empty"


def test_a_secure_round_that_stops_ends_with_one_line(rounds, deadline):
    rounds.plan_round(**SECURE)
    rounds.train("aws")

    assert not rounds.execute("adapter_job", "r0001", raises=False).success
    rounds.execute("verdict_job", "r0001", raises=False)
    assert rounds.outcome().outcome == "failed"
    assert rounds.outcome().reason.startswith("0 of 4 deltas can be used, the quorum is 3: ")
    assert "stopped in phase 1 of its secure aggregation" in rounds.outcome().reason
    assert SiteKeys(rounds.root).round_secrets() == []
    assert scratch(rounds, "aws") == []


def test_an_adapter_of_a_sum_that_is_made_again_has_the_same_bytes(rounds, deadline):
    rounds.plan_round(**SECURE)
    carry(rounds, deadline, gone="azure", gone_in=3)
    rounds.execute("adapter_job", "r0001")
    folder = rounds.root / "site" / "rounds" / "r0001" / "adapter"
    before = files_of(folder)
    for name in ("adapter.safetensors", "adapter.json"):
        (folder / name).unlink()
    rounds.train("azure")  # says that the round went on

    rounds.execute("adapter_job", "r0001")
    assert files_of(folder) == before


def test_the_conductor_carries_a_secure_round_by_what_it_asks_for(rounds):
    from sensors.round_conductor import build_round_conductor
    from tests.sensors.rounds import JOBS

    names = ("delta_job", "phase_job", "adapter_job", "scores_job", "verdict_job")
    sensor, asked = build_round_conductor(*(JOBS[name] for name in names)), []
    rounds.plan_round(**SECURE)
    for _ in range(12):
        with dg.build_sensor_context(
            instance=rounds.instance,
            resources={"store": rounds.store, "federation": rounds.federation},
            sensor_name="round_conductor",
        ) as context:
            found = sensor(context)
        for request in getattr(found, "run_requests", []):
            asked.append(request.run_key)
            rounds.definitions().resolve_job_def(request.job_name).execute_in_process(
                instance=rounds.instance, partition_key=request.partition_key, tags=request.tags
            )
        if rounds.outcome():
            break

    assert rounds.outcome().outcome == "promoted"
    assert len(asked) == len(set(asked))
    assert {"r0001/delta/aws/1", "r0001/delta/aws/3", "r0001/adapter"} <= set(asked)
    jobs = [run.job_name for run in rounds.instance.get_runs()]
    assert jobs.count("delta_job") == len(HOMES_OF_FOUR)  # only the first phase takes a GPU


def test_phases_after_the_first_wait_for_no_gpu(rounds):
    graph = rounds.definitions()
    pools = {name: graph.resolve_job_def(name) for name in ("delta_job", "phase_job")}
    found = {
        name: {node.definition.pool for node in job.nodes if node.definition.pool}
        for name, job in pools.items()
    }

    assert found == {"delta_job": {"gpu"}, "phase_job": {"cpu"}}


def test_a_phase_is_the_same_whether_it_waits_for_a_gpu_or_not(rounds, deadline):
    rounds.plan_round(**SECURE)
    for site in HOMES_OF_FOUR:
        rounds.train(site)
    for _ in range(3):
        for site in HOMES_OF_FOUR:
            rounds.execute("phase_job", site_round_key(site, "r0001"))

    assert phase(rounds) == 5
    assert ASKED.count(("aws", "train")) == 1
    assert rounds.metadata("site_delta")["phase"] == 5


def test_a_phase_without_the_delta_of_the_first_says_what_to_run(rounds, deadline):
    rounds.plan_round(**SECURE)
    for site in HOMES_OF_FOUR:
        rounds.train(site)
    rounds.resources["staging"].clear("r0001", "aws")
    run = rounds.execute("phase_job", site_round_key("aws", "r0001"), raises=False)

    words = run.get_step_failure_events()[0].step_failure_data.error.to_string()
    assert "Materialise `site_delta` of this partition" in words
    assert ASKED.count(("aws", "train")) == 1


def test_a_late_phase_of_agents_is_ended_and_no_part_of_theirs_is_taken(rounds, deadline):
    path = rounds.root / "sites.toml"
    path.write_text(path.read_text().replace("cities", "agent = true\ncities"))
    rounds.plan_round(**SECURE)
    for site in ("aws", "gcp", "local"):
        rounds.train(site)
    deadline(datetime.min.replace(tzinfo=UTC))
    rounds.execute("phase_job", site_round_key("aws", "r0001"))

    assert phase(rounds) == 2
    assert not rounds.sent("aws", "secure-2.json").exists()


def test_an_agent_s_clock_ends_no_phase(rounds, deadline):
    path = rounds.root / "sites.toml"
    path.write_text(path.read_text().replace("[sites.gcp]", "[sites.gcp]\nagent = true"))
    rounds.plan_round(**SECURE)
    for site in ("aws", "azure"):
        rounds.train(site)
    deadline(datetime.min.replace(tzinfo=UTC))  # as a clock that is ahead has it
    rounds.train("gcp")

    assert phase(rounds) == 1
    rounds.execute("phase_job", site_round_key("gcp", "r0001"))
    assert phase(rounds) == 2
