import os
from collections import Counter

import polars as pl
import pytest

from resources.site_log import SiteLog
from resources.site_store import SiteStore
from tests import rows
from worldloop.errors import LogDamageError, StoreError
from worldloop.layout import claim_key

VERBS = ("get", "get_range", "put", "create", "exists", "size", "scan", "delete")


@pytest.fixture
def store(tmp_path):
    return SiteStore(url=str(tmp_path / "site"))


@pytest.fixture
def log(tmp_path, store):
    return SiteLog(store=store, mirror=str(tmp_path / "mirror"))


@pytest.fixture
def requests(monkeypatch):
    counted = Counter()

    def counting(verb, call):
        def counts(*args, **kwargs):
            counted[verb] += 1
            return call(*args, **kwargs)

        return counts

    for verb in VERBS:
        monkeypatch.setattr(SiteStore, verb, counting(verb, getattr(SiteStore, verb)))
    return counted


def recipes(log):
    return log.read("clips")["recipe_id"].to_list()


def test_a_mirror_changes_nothing_of_what_is_read(log, store):
    plain = SiteLog(store=store)
    for i in range(3):
        log.append("clips", rows.clips(range(i, i + 2)))
    log.retract("clips", [rows.ids(1)["recipe_id"]], reason="asked for")

    assert log.read("clips").equals(plain.read("clips"))
    assert log.position() == plain.position()
    assert log.batch_hashes("clips") == plain.batch_hashes("clips")


def test_an_append_to_one_kind_takes_three_requests_with_a_warm_mirror(log, requests):
    log.append("clips", rows.clips(range(2)))
    requests.clear()

    log.append("clips", rows.clips(range(2, 4)))

    assert requests == {"scan": 1, "put": 1, "create": 1}


def test_no_rows_and_known_rows_take_none_and_one(log, requests):
    log.append("clips", rows.clips(range(2)))
    requests.clear()

    assert log.append("clips", rows.clips(range(0))) == 0
    assert not requests
    assert log.append("clips", rows.clips(range(2))) == 0
    assert requests == {"scan": 1}


def test_what_was_read_once_is_not_fetched_again(log, store, requests):
    SiteLog(store=store).append("clips", rows.clips(range(2)))
    first = log.read("clips")
    requests.clear()

    assert log.read("clips").equals(first)
    assert requests == {"scan": 2}  # claims of clips and of retractions


def test_the_mirror_holds_only_committed_batches_under_the_same_keys(log, store, tmp_path):
    log.append("clips", rows.clips(range(2)))
    store.put("logs/private/clips/000000000002-ab.parquet", b"nobody claimed this")
    log.sync()

    kept = sorted((tmp_path / "mirror").rglob("*.parquet"))
    assert [str(path.relative_to(tmp_path / "mirror")) for path in kept] == [
        batch.key("clips") for batch in log.batch_hashes("clips")
    ]
    assert log.local_files("clips") == kept
    assert pl.read_parquet(kept[0]).height == 2


def test_a_batch_that_is_gone_or_changed_is_named_with_what_to_do(log, store):
    log.append("clips", rows.clips(range(2)))
    key = log.batch_hashes("clips")[0].key("clips")
    store.put(key, b"other bytes")
    with pytest.raises(LogDamageError, match=r"other bytes than were committed.*catalog repair"):
        log.direct.read("clips")
    store.delete(key)
    with pytest.raises(LogDamageError, match=r"is gone.*catalog repair"):
        log.direct.read("clips")

    assert log.direct.batch_hashes("clips")[0].size_bytes == 0
    assert len(recipes(log)) == 2  # the mirror still has it


def test_a_lost_claim_is_damage_and_not_a_shorter_log(log, store):
    for i in range(3):
        log.append("clips", rows.clips(range(i, i + 1)))
    middle, last = (claim_key("private", "clips", seq) for seq in (2, 3))
    content = store.get(middle)
    store.delete(middle)
    with pytest.raises(LogDamageError, match="000000000002"):
        log.direct.read("clips")
    store.put(middle, content)
    store.delete(last)
    with pytest.raises(LogDamageError, match="000000000003"):
        log.append("clips", rows.clips(range(9, 10)))


def test_a_mirror_of_another_log_is_thrown_away(log, tmp_path):
    log.append("clips", rows.clips(range(2)))
    log.read("clips")
    other = SiteLog(store=SiteStore(url=str(tmp_path / "other")))
    other.append("clips", rows.clips(range(5, 6)))
    claim = other.store.local_path(claim_key("private", "clips", 1))
    os.utime(claim, (1, 1))

    moved = log.model_copy(update={"store": other.store})
    assert recipes(moved) == recipes(other)


def test_a_claim_that_was_put_back_is_still_the_same_log(log, store, requests):
    log.append("clips", rows.clips(range(2)))
    log.read("clips")
    os.utime(store.local_path(claim_key("private", "clips", 1)), (1, 1))
    requests.clear()

    assert len(recipes(log)) == 2
    assert requests["get"] == 1  # the claim, to see that it names the same batch


def test_a_cold_mirror_of_a_long_log_begins_with_its_checkpoint(store, tmp_path, requests):
    writer = SiteLog(store=store, checkpoint_every=24)
    for i in range(26):
        writer.append("clips", rows.clips(range(i, i + 1)))
    requests.clear()
    log = SiteLog(store=store, mirror=str(tmp_path / "mirror"))

    assert len(recipes(log)) == 26
    assert requests["get"] == 1 + 2 * 2  # the checkpoint, then claim and bytes of two batches
    early = '{"private":{"clips":3},"shared":{}}'
    assert log.read("clips", at=early).equals(writer.read("clips", at=early))


def test_a_mirrored_writer_makes_checkpoints_and_does_not_ask_for_them_each_time(store, tmp_path):
    log = SiteLog(store=store, mirror=str(tmp_path / "mirror"), checkpoint_every=3)
    for i in range(7):
        log.append("clips", rows.clips(range(i, i + 1)))

    assert len(store.list("logs/private/clips/checkpoints")) == 2
    assert log.read("clips").equals(SiteLog(store=store).read("clips"))


def test_who_goes_on_from_a_number_gets_what_came_later_and_its_retractions(log):
    log.append("clips", rows.clips(range(2)))
    log.append("clips", rows.clips(range(2, 5)))
    log.retract("clips", [rows.ids(i)["recipe_id"] for i in (0, 3)], reason="test")

    new, head = log.read_after("clips", 1)
    taken, taken_head = log.read_after("private/retractions", 0)

    assert new["recipe_id"].to_list() == [rows.ids(i)["recipe_id"] for i in (2, 4)]
    assert (head, taken_head) == (2, 1)
    assert taken["of_kind"].unique().to_list() == ["clips"]
    assert log.read_after("clips", 2)[1] == 2
    assert log.read_after("clips", 0, until=1)[1] == 1


def test_heads_name_each_kind_that_has_batches(log):
    assert log.heads() == {}
    log.append("clips", rows.clips(range(1)))
    log.append(
        "scores", rows.signals(range(1)).drop("content_sha256", "num_decoded_frames", "phash")
    )
    log.retract("scores", ["x"], reason="test")

    assert log.heads() == {"clips": 1, "scores": 1, "shared/retractions": 1}


def test_claims_tell_when_the_store_took_them(log, store):
    log.append("clips", rows.clips(range(1)))
    log.append("clips", rows.clips(range(1, 2)))
    claims = [found for found in store.scan("logs") if "/claims/" in found.key]

    assert [batch.claimed_at for batch in log.batch_hashes("clips")] == [
        claim.modified_at for claim in claims
    ]
    assert log.claimed_at("clips", 2) == claims[1].modified_at
    assert log.claimed_at("clips", 3) is None


def test_an_append_reads_no_batch_that_its_process_knows(store, requests):
    log = SiteLog(store=store)
    log.append("clips", rows.clips(range(2)))
    log.append("clips", rows.clips(range(4)))
    requests.clear()

    assert log.append("clips", rows.clips(range(5))) == 1
    assert requests == {"scan": 1, "get": 2, "put": 1, "create": 1}  # what it wrote itself last


def test_what_a_process_knows_of_one_log_is_not_taken_for_another(store):
    log = SiteLog(store=store)
    log.append("clips", rows.clips(range(2)))
    log.append("clips", rows.clips(range(3)))
    for key, _ in store.list():
        store.delete(key)

    assert log.append("clips", rows.clips(range(2))) == 2
    assert log.append("clips", rows.clips(range(3))) == 1
    assert len(recipes(log)) == 3


def test_local_files_of_a_remote_log_without_a_mirror_are_refused(log, monkeypatch):
    log.append("clips", rows.clips(range(1)))
    monkeypatch.setattr("resources.site_store.folder_of", lambda url: None)

    with pytest.raises(StoreError, match="local path"):
        log.direct.local_files("clips")
