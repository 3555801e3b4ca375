"""The watch over checkpoints in use: its requests, the runs that follow them, and what it says."""

import json

import dagster as dg
import pytest

from assets.checkpoint_lines import checkpoint_lines
from orchestration.jobs import lines_job
from resources import checkpoint_lines as lines
from resources.alerts import Alerts
from resources.checkpoint_registry import CheckpointRegistry
from sensors.worse_checkpoints import build_worse_checkpoints
from tests.sensors.lines import LINE, film, publish_rounds
from tests.sensors.rounds import MODEL, open_round
from worldloop.errors import UnreachableError
from worldloop.federation.rounds import Base
from worldloop.sites import Retraining, Site

SITE = Site("local", ("*",), "site", training=Retraining(model=MODEL))


@pytest.fixture(autouse=True)
def nothing_remembered():
    lines._read.clear()


@pytest.fixture
def told(monkeypatch):
    """Alerts that were sent."""
    sent: list[dict[str, str]] = []
    monkeypatch.setattr(Alerts, "send", lambda self, title, **facts: sent.append({"title": title, **facts}))  # fmt: skip
    return sent


@pytest.fixture
def promoted(house):
    """Two promoted rounds and a wave that the first one made."""
    registry = publish_rounds(house, "r0001", "r0002", "r0003")
    registry.promote(LINE, "r0001", reason="first")
    registry.promote(LINE, "r0002", reason="it passed every gate")
    film(house, "w0001", "r0001")
    return house


def tick(house, *, cursor=None):
    resources = {name: house.resources[name] for name in ("store", "site_log", "registry")}
    with dg.build_sensor_context(
        instance=house.instance, resources=resources, cursor=cursor, sensor_name="worse_checkpoints"
    ) as context:
        return build_worse_checkpoints(lines_job, SITE)(context)


def run(house, *, config=None, raises=True):
    """A run of the asset, as the sensor's request starts it."""
    names = ("store", "site_log", "federation", "registry", "alerts")
    ops = {"ops": {"checkpoint_lines": {"config": config or {}}}}
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    return dg.materialize(
        [checkpoint_lines],
        instance=house.instance,
        resources={name: house.resources[name] for name in names},
        run_config={**quiet, **ops},
        raise_on_error=raises,
    )


def said(result):
    """Why nothing is asked for."""
    return (result.skip_reason if isinstance(result, dg.SensorResult) else result).skip_message


def keys(result):
    return [request.run_key for request in result.run_requests or ()]


def events(house):
    return [(one.event, one.round) for one in house.resources["registry"].history(LINE)]


def audits(house):
    found = house.resources["site_log"].read("audits")
    return found.select("action", "of_kind", "of_id", "reason").rows()


def test_a_worse_checkpoint_is_taken_back_with_its_reason_an_audit_row_and_one_alert(
    promoted, told
):
    film(promoted, "w0002", "r0002", share=0.4)

    assert keys(tick(promoted)) == ["roll_back:r0002"]
    run(promoted)

    registry = promoted.resources["registry"]
    assert (promoted.root / "site/registry" / LINE / "refs/main").read_text() == "r0001"
    last = registry.history(LINE)[-1]
    assert last.reason.startswith("sharpness fell by 0.6 ")
    assert audits(promoted)[-1] == ("rolled_back", "checkpoints", f"{LINE}/r0002", last.reason)
    assert [(one["used_now"], one["reason"]) for one in told] == [("r0001", last.reason)]


def test_however_often_it_is_asked_it_goes_back_once(promoted, told):
    film(promoted, "w0002", "r0002", share=0.4)
    for _ in range(3):
        run(promoted)

    assert events(promoted).count(("rolled_back", "r0002")) == 1
    assert [one for one in events(promoted) if one[0] == "rolled_back"] == [
        ("rolled_back", "r0002")
    ]
    assert (len(told), len(audits(promoted))) == (1, 3)
    assert keys(tick(promoted)) == []


def test_one_that_somebody_promotes_again_is_not_taken_back_a_second_time(promoted, told):
    film(promoted, "w0002", "r0002", share=0.4)
    run(promoted)
    promoted.resources["registry"].promote(LINE, "r0002", reason="I know better")

    result = tick(promoted)
    run(promoted)

    assert keys(result) == [f"show:{LINE}:4"]
    assert promoted.resources["registry"].main(LINE) == "r0002"


def test_with_no_earlier_one_the_ref_goes_and_the_base_is_used(house, told):
    registry = publish_rounds(house, "r0001")
    registry.promote(LINE, "r0001")
    film(house, "w0001")
    film(house, "w0002", "r0001", share=0.2)
    run(house)

    assert not (house.root / "site/registry" / LINE / "refs/main").exists()
    assert registry.chosen(LINE, "w0003") == ""
    assert told[0]["used_now"] == "the base alone"
    assert "nothing was promoted before" in registry.history(LINE)[-1].reason
    run(house)  # never further than the base
    assert len(registry.history(LINE)) == 2
    assert "its base makes what comes" in said(tick(house))


def test_a_run_that_was_killed_after_its_decision_is_told_by_the_next(promoted, told, monkeypatch):
    film(promoted, "w0002", "r0002", share=0.4)
    monkeypatch.setattr("assets.checkpoint_lines.untold", lambda *args, **more: 1 / 0)
    run(promoted, raises=False)
    assert (events(promoted)[-1], told) == (("rolled_back", "r0002"), [])
    monkeypatch.undo()
    sent: list[str] = []
    monkeypatch.setattr(Alerts, "send", lambda self, title, **facts: sent.append(title))

    assert keys(tick(promoted)) == [f"show:{LINE}:3"]
    run(promoted)

    assert sent == ["worldloop checkpoint taken back: r0002"]
    assert audits(promoted)[-1][0] == "rolled_back"


def test_many_rejected_clips_are_a_reason_too(promoted, told):
    film(promoted, "w0002", "r0002", rejected=8)
    run(promoted)

    assert "accepted fell by" in promoted.resources["registry"].history(LINE)[-1].reason


def test_a_good_checkpoint_stays_and_it_says_by_how_many_pairs(promoted):
    film(promoted, "w0002", "r0002", count=11)
    run(promoted)
    assert "11 of its clips" in said(tick(promoted))

    film(promoted, "w0003", "r0002")
    assert "12 pairs" in said(tick(promoted))
    assert events(promoted)[-1] == ("promoted", "r0002")


def test_a_shadow_is_promoted_once_its_clips_are_no_worse(promoted, told):
    registry = promoted.resources["registry"]
    registry.try_as_shadow(LINE, "r0003", share=0.25, reason="it passed every gate")
    film(promoted, "w0002", "r0002")
    film(promoted, "w0003", "r0003")

    assert keys(tick(promoted)) == ["promote:r0003"]
    run(promoted)

    assert (registry.main(LINE), registry.shadow(LINE)) == ("r0003", "")
    assert told == []
    assert audits(promoted)[-1][0] == "promoted"


def test_a_worse_shadow_is_withdrawn_and_the_promoted_one_goes_on(promoted, told):
    registry = promoted.resources["registry"]
    registry.try_as_shadow(LINE, "r0003", share=0.25)
    film(promoted, "w0003", "r0003", share=0.3)

    assert keys(tick(promoted)) == ["withdraw:r0003"]
    run(promoted)

    assert (registry.main(LINE), registry.shadow(LINE)) == ("r0002", "")
    assert registry.history(LINE)[-1].reason.startswith("sharpness fell by 0.7 ")


def test_a_shadow_that_builds_on_what_was_taken_back_goes_with_it(promoted, told):
    open_round(promoted, "r0003", base=Base(MODEL, "tiny", adapter="r0002", adapter_sha256="ab"))
    registry = promoted.resources["registry"]
    registry.try_as_shadow(LINE, "r0003", share=0.25)
    film(promoted, "w0002", "r0002", share=0.3)
    run(promoted)
    assert registry.shadow(LINE) == "r0003"

    assert keys(tick(promoted)) == ["withdraw:r0003"]
    run(promoted)
    assert (registry.main(LINE), registry.shadow(LINE)) == ("r0001", "")


def test_a_cursor_spares_looking_again_until_something_happens(promoted, monkeypatch):
    run(promoted)
    film(promoted, "w0002", "r0002", count=3)
    first = tick(promoted)
    assert json.loads(first.cursor)["version"] == 1
    monkeypatch.setattr("sensors.worse_checkpoints.due", lambda *args, **more: 1 / 0)
    assert said(tick(promoted, cursor=first.cursor)) == said(first)

    monkeypatch.undo()
    film(promoted, "w0003", "r0002", share=0.3)
    asked = tick(promoted, cursor=first.cursor)
    assert keys(asked) == ["roll_back:r0002"]
    assert "look at the runs of lines_job" in said(tick(promoted, cursor=asked.cursor))


def test_a_site_that_is_away_is_named_and_nothing_is_decided(promoted, monkeypatch):
    def away(*args, **more):
        raise UnreachableError("Site aws does not answer.")

    monkeypatch.setattr("sensors.worse_checkpoints.due", away)
    assert "Site aws does not answer" in said(tick(promoted))


def test_the_asset_shows_what_is_used_and_tried_since_when_and_why(promoted):
    promoted.resources["registry"].try_as_shadow(LINE, "r0003", share=0.25, reason="all gates")
    promoted.execute("lines_job")

    event = promoted.instance.get_latest_materialization_event(dg.AssetKey("checkpoint_lines"))
    metadata = event.asset_materialization.metadata
    assert f"| {LINE} | main | r0002 | 20" in metadata["in_use"].value
    assert "| 25% | shadowed r0003: all gates |" in metadata["in_use"].value
    assert metadata["num_decisions"].value == {LINE: 3}
    assert "r0003 is tried: 0 of its clips" in metadata["waiting"].value[LINE]
    assert keys(tick(promoted)) == []  # all of it is shown


def test_a_person_takes_one_back_by_hand_and_a_wrong_name_is_refused(promoted, told):
    asked = {"roll_back": "r0002", "reason": "colours are off"}
    run(promoted, config=asked)
    run(promoted, config=asked)

    assert events(promoted)[-1] == ("rolled_back", "r0002")
    assert len(events(promoted)) == 3
    assert told[0]["reason"] == "colours are off"
    refused = run(promoted, config={"roll_back": "r0009"}, raises=False)
    assert "a round that is promoted: r0001" in str(refused.all_events)


def test_the_hub_gets_what_is_used_after_a_roll_back(promoted, told, monkeypatch):
    path = promoted.root / "sites.toml"
    training = f'[sites.local.training]\nmodel = "{MODEL}"\nupload_repo = "ana/zoo"\n'
    tiny = 'regeneration = { tier = "tiny", control = ["first_frames"] }\n'
    path.write_text(f"{path.read_text()}\n{training}{tiny}")
    monkeypatch.setenv("HF_TOKEN", "hf_made_up")
    sent: list[tuple[str, ...]] = []
    monkeypatch.setattr(CheckpointRegistry, "upload", lambda self, *asked, token: sent.append(asked) or "c")  # fmt: skip
    film(promoted, "w0002", "r0002", share=0.4)

    run(promoted)

    assert sent == [(LINE, "r0001", "ana/zoo")]


def test_it_runs_by_default_and_says_when_there_is_nothing_to_watch(house):
    assert build_worse_checkpoints(lines_job, SITE).default_status == dg.DefaultSensorStatus.RUNNING
    assert said(tick(house)) == "No checkpoint has been promoted yet."
