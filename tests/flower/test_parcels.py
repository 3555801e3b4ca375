"""What travels between a coordinator and a site: two homes without a common folder, no Flower."""

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from orchestration.flower.parcels import accept, check_keys, files_for, hand_out, lay_in
from resources.outbox import Outbox
from resources.round_files import end_round, publish_adapter, read_round_plan
from resources.site_footage import SiteFootage
from resources.site_keys import SiteKeys
from resources.tables import read
from tests.orchestration.small_round import LAYERS, ROUND, WAVE, lay_out, plan_round
from worldloop import layout
from worldloop.errors import MalformedRecordError, StoreError
from worldloop.federation.adapters import adapter_sha256, initial_adapter
from worldloop.federation.codecs import encode
from worldloop.federation.envelopes import DeltaHeader, seal
from worldloop.federation.outbox import DELTA
from worldloop.federation.outcomes import AdapterRecord, Outcome
from worldloop.federation.rounds import Base
from worldloop.layout import manifest_key
from worldloop.records import MANIFEST

KEY = layout.sent_key(ROUND, "aws", DELTA)


@pytest.fixture
def coordinator(tmp_path):
    return lay_out(tmp_path / "coordinator")


@pytest.fixture
def site(tmp_path):
    """The home of `aws`, which knows of no release."""
    federation = lay_out(tmp_path / "aws", {"aws": "tokyo"})
    federation.store("local").delete(manifest_key(WAVE))
    return federation


def unpack(folder, files):
    for key, content in files.items():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(content)
    return folder


def sealed(plan, private_key, **changes):
    """An empty delta, as of a site without clips."""
    names = ("norm", "loss_before", "loss_after", "took_s", "gpu_s")
    known = {"round": ROUND, "site": "aws", "plan_id": plan.plan_id, "base": "", "codec": "int8"}
    numbers = {"start_sha256": "", "num_clips": 0, "num_steps": 0, **dict.fromkeys(names, 0.0)}
    return seal(b"", DeltaHeader(**{**known, **numbers, **changes}), private_key)


def published(store, keys):
    keys.publish(store, "aws")
    key = layout.public_key_key("aws")
    return {key: store.get(key)}


def test_a_site_gets_its_plan_and_which_clips_were_released_without_captions(coordinator):
    plan, store = plan_round(coordinator), coordinator.store("local")
    files = files_for(store, plan, "delta")

    assert set(files) == {layout.round_plan_key(ROUND), manifest_key(WAVE)}
    assert b"tokyo by day" not in files[manifest_key(WAVE)]
    check_keys(files)


def test_with_what_came_the_site_stages_its_own_clips_with_its_own_captions(
    coordinator, site, tmp_path
):
    plan = plan_round(coordinator)
    files = files_for(coordinator.store("local"), plan, "delta")
    lay_in(site.store("local"), unpack(tmp_path / "in", files))
    staged = SiteFootage(site, "aws", tmp_path / "staged").stage_train([WAVE], held_out_cities=())

    texts = {path.read_text() for path in (staged.folder / "metas").iterdir()}
    assert (staged.num_clips, texts) == (2, {"tokyo by day"})
    assert read_round_plan(site.store("local"), ROUND) == plan


def test_a_release_that_the_site_knows_itself_stays(coordinator, tmp_path):
    own = lay_out(tmp_path / "other", {"aws": "tokyo"}).store("local")
    files = files_for(coordinator.store("local"), plan_round(coordinator), "delta")
    lay_in(own, unpack(tmp_path / "in", files))
    lay_in(own, tmp_path / "in")

    assert set(read(own, MANIFEST, manifest_key(WAVE))["caption"]) == {"tokyo by day"}


def test_another_plan_of_a_round_that_stands_is_refused(coordinator, site, tmp_path):
    plan = plan_round(coordinator)
    plan_round(site, seed=8)
    files = files_for(coordinator.store("local"), plan, "delta")
    with pytest.raises(StoreError, match="stands at this site with other bytes"):
        lay_in(site.store("local"), unpack(tmp_path / "in", files))


def test_a_later_round_brings_what_it_starts_from_and_the_line_before(coordinator):
    first, store = plan_round(coordinator), coordinator.store("local")
    made = initial_adapter(first.seed, LAYERS, 2)
    digest = adapter_sha256(made)
    record = AdapterRecord(ROUND, first.plan_id, "fedavg", digest, digest, "", 44, 0.0, (), {})
    publish_adapter(store, record, made, {})
    ended = (first.plan_id, "promoted", "good", first.opened_at)
    outcome = Outcome(ROUND, *ended, adapter_sha256=digest)
    end_round(store, coordinator.log("local"), outcome)
    base = Base(first.base.model, "tiny", adapter=ROUND, adapter_sha256=digest)
    second = plan_round(coordinator, round="r0002", base=base)

    files = files_for(store, second, "delta")
    ended = {f"rounds/{ROUND}/{name}" for name in ("plan.json", "outcome.json")}
    adapter = {f"rounds/{ROUND}/adapter/adapter.{end}" for end in ("json", "safetensors")}
    assert set(files) == {"rounds/r0002/plan.json", manifest_key(WAVE)} | ended | adapter


@pytest.mark.parametrize(
    "key",
    [
        "../sites.toml",
        "rounds/r0001/../../keys/aws.key",
        "federation/keys/aws.pub",
        "rounds/r0001/sites/aws/delta.bin",
        "clips/w0001/tokyo.parquet",
    ],
)
def test_a_coordinator_cannot_put_other_files_at_a_site(key):
    with pytest.raises(MalformedRecordError, match="file of the coordinator"):
        check_keys([key])


def test_what_a_site_sent_is_handed_out_with_its_public_key_and_nothing_else(site, tmp_path):
    plan, store, keys = plan_round(site), site.store("local"), SiteKeys(site.home)
    hand_out(store, ROUND, "aws", "delta", tmp_path / "before")
    keys.publish(store, "aws")
    Outbox(store).send(ROUND, "aws", DELTA, sealed(plan, keys.private_key("aws")))
    hand_out(store, ROUND, "aws", "delta", tmp_path / "out")

    out = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    found = {path.relative_to(tmp_path / "out").as_posix() for path in out}
    assert found == {KEY, layout.public_key_key("aws")}
    assert not (tmp_path / "before").exists()


def test_a_sealed_delta_becomes_a_file_of_the_round_once(coordinator, site):
    plan, store, keys = plan_round(coordinator), coordinator.store("local"), SiteKeys(site.home)
    content = sealed(plan, keys.private_key("aws"))
    files = {KEY: content, **published(site.store("local"), keys)}

    assert accept(store, plan, "aws", "delta", files)
    assert accept(store, plan, "aws", "delta", files)
    assert Outbox(store).sent(ROUND, "aws", DELTA) == content


def test_who_has_not_the_sites_key_cannot_take_its_place(coordinator, site):
    plan, store, keys = plan_round(coordinator), coordinator.store("local"), SiteKeys(site.home)
    published(store, keys)
    forged = {KEY: sealed(plan, Ed25519PrivateKey.generate())}
    with pytest.raises(MalformedRecordError, match="signature"):
        accept(store, plan, "aws", "delta", forged)
    assert Outbox(store).sent(ROUND, "aws", DELTA) is None


@pytest.mark.parametrize("field", ["plan_id", "site"])
def test_a_delta_of_another_plan_or_site_is_refused(coordinator, site, field):
    plan, store, keys = plan_round(coordinator), coordinator.store("local"), SiteKeys(site.home)
    other = {"plan_id": "0" * 32} if field == "plan_id" else {"site": "gcp"}
    content = sealed(plan, keys.private_key("aws"), **other)
    files = {KEY: content, **published(site.store("local"), keys)}
    with pytest.raises(MalformedRecordError):
        accept(store, plan, "aws", "delta", files)
    assert Outbox(store).senders(ROUND, DELTA) == []


@pytest.mark.parametrize(
    ("site_name", "key"),
    [("aws", "rounds/r0001/plan.json"), ("oracle", KEY), ("gcp", KEY)],
)
def test_a_site_cannot_put_other_files_at_the_coordinator(coordinator, site_name, key):
    plan = plan_round(coordinator)
    with pytest.raises(MalformedRecordError, match="answer of site"):
        accept(coordinator.store("local"), plan, site_name, "delta", {key: b"x"})


def test_an_answer_without_a_delta_is_no_answer(coordinator):
    assert not accept(coordinator.store("local"), plan_round(coordinator), "aws", "delta", {})


def test_a_payload_that_holds_a_delta_arrives_unchanged(coordinator, site):
    plan, store, keys = plan_round(coordinator), coordinator.store("local"), SiteKeys(site.home)
    start = initial_adapter(plan.seed, LAYERS, 2)
    header = DeltaHeader(
        *(
            ROUND,
            "aws",
            plan.plan_id,
            "",
            adapter_sha256(start),
            "int8",
            2,
            2,
            1.0,
            2.0,
            1.0,
            0.0,
            0.0,
        )
    )
    content = seal(encode(start, "int8").content, replace(header), keys.private_key("aws"))
    files = {KEY: content, **published(site.store("local"), keys)}
    assert accept(store, plan, "aws", "delta", files)
    assert Outbox(store).sent(ROUND, "aws", DELTA) == content
