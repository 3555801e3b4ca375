"""The right to delete, over two sites in folders with real packs."""

import hashlib
import io
import json

import polars as pl
import pytest

from resources.backup import back_up, restore
from resources.federation import Federation
from resources.retractions import read_redactions, take_back
from resources.site_log import SiteLog
from resources.site_store import SiteStore
from resources.tables import publish, read
from tests import rows
from worldloop import layout
from worldloop.errors import MalformedRecordError, StoreError, UnknownKeyError
from worldloop.packs import ERASED, PackMember, read_member, read_pack_index, write_pack
from worldloop.records import CLIPS, DEDUP, MANIFEST, PROMPTS, VECTORS
from worldloop.releases import compose_release, root_of

WAVE = "w0001"
GONE = rows.ids(0, city="tokyo")["recipe_id"]
KEPT = rows.ids(1, city="tokyo")["recipe_id"]
WHY = {"reason": "a person asked for it", "actor": "ml@example.org"}
SITES = """
[sites.local]
cities = []
store = "local"
[sites.aws]
cities = ["tokyo"]
store = "aws"
backup = "aws-backup"
[sites.gcp]
cities = ["lima"]
store = "gcp"
"""


def filmed(store, folder, city):
    """Two clips of a city with a real pack."""
    recipes = [rows.ids(i, city=city)["recipe_id"] for i in range(2)]
    for recipe in recipes:
        (folder / recipe).mkdir(parents=True)
        for name in ("rgb.mp4", "poster.png"):
            (folder / recipe / name).write_bytes(f"{recipe} {name} ".encode() * 50)
    members = write_pack(folder / "pack.tar", [(recipe, folder / recipe) for recipe in recipes])
    content = (folder / "pack.tar").read_bytes()
    key = layout.pack_key(WAVE, city, hashlib.sha256(content).hexdigest())
    store.put(key, content)
    mine = [[m.__dict__ for m in members if m.clip_id == recipe] for recipe in recipes]
    return rows.clips(range(2), city=city).with_columns(
        pack_key=pl.lit(key), members=pl.Series(mine, dtype=CLIPS.columns["members"])
    )


@pytest.fixture
def federation(tmp_path):
    (tmp_path / "sites.toml").write_text(SITES)
    federation = Federation(sites_path=str(tmp_path / "sites.toml"), home=str(tmp_path))
    store, log = federation.federated_store(), federation.federated_log()
    clips = [filmed(store, tmp_path / "films" / city, city) for city in ("tokyo", "lima")]
    for city, table in zip(("tokyo", "lima"), clips, strict=True):
        where = {"city": city}
        for key, of, content in (
            (layout.clips_key, CLIPS, table),
            (layout.prompts_key, PROMPTS, rows.prompts(range(2), **where)),
            (layout.vectors_key, VECTORS, rows.vectors(range(2), **where)),
        ):
            publish(store, of, key(WAVE, city), content)
        prompts = rows.prompts(range(2), **where)
        log.append("clips", table)
        log.append("vectors", rows.vectors(range(2), **where))
        log.append("signals", rows.signals(range(2), **where))
        log.append("duplicates", rows.dedup(range(2), **where))
        log.append("lineage", rows.lineage(range(2), **where))
        log.append("captions", prompts.select(log_columns("captions")))
        log.append("scenes", prompts.with_columns(scene="recipe").select(log_columns("scenes")))
    release(federation, store, log)
    return federation


def log_columns(kind):
    from worldloop.logs import KINDS

    return list(KINDS[kind].table.columns)


def release(federation, store, log):
    tables = {k: log.read(k).drop("kind", "id", "schema_version") for k in ("clips", "captions")}
    decided = [rows.dedup(range(2), city=city) for city in ("tokyo", "lima")]
    frozen = compose_release(
        **tables,
        signals=log.read("signals"),
        dedup=pl.concat(decided),
        wave=WAVE,
        site="local",
        position=log.position(),
        atlas_hash="atlas",
    )
    publish(store, MANIFEST, layout.manifest_key(WAVE), frozen.manifest)
    publish(store, DEDUP, layout.dedup_key(WAVE), pl.concat(decided))
    log.append("release_clips", frozen.log_clips())


def manifest(federation):
    return read(federation.store("local"), MANIFEST, layout.manifest_key(WAVE))


def everything(store):
    return b"".join(store.get(key) for key, _ in store.list())


def test_a_clip_that_is_taken_back_is_in_no_log_and_no_table(federation):
    told = take_back(federation, [GONE], **WHY)

    log, store = federation.federated_log(), federation.federated_store()
    for kind in ("clips", "captions", "vectors", "signals", "duplicates", "lineage"):
        found = log.read(kind)
        assert GONE not in set(found["recipe_id"])
        assert KEPT in set(found["recipe_id"])
    assert rows.ids(0, city="tokyo")["scene_id"] not in set(log.read("scenes")["scene_id"])
    assert log.read("scenes").height == 3
    for key, table in ((layout.clips_key, CLIPS), (layout.prompts_key, PROMPTS)):
        assert read(store, table, key(WAVE, "tokyo"))["recipe_id"].to_list() == [KEPT]
    assert [(each.site, each.num_packs) for each in told] == [("local", 0), ("aws", 1)]
    assert "bytes erased in 1 packs" in str(told[1])


def test_its_bytes_are_gone_and_the_other_clips_of_the_pack_read_as_before(federation, tmp_path):
    store = federation.store("aws")
    clips = federation.log("aws").read("clips")
    key = clips["pack_key"][0]
    before = store.get(key)
    take_back(federation, [GONE], **WHY)
    pack = store.get(key)

    for recipe, members in clips.select("recipe_id", "members").iter_rows():
        for member in (PackMember(**fields) for fields in members):
            if recipe == KEPT:
                assert read_member(io.BytesIO(pack), member)
                continue
            assert read_member(io.BytesIO(before), member) not in pack
            with pytest.raises(MalformedRecordError, match="a clip that was taken back"):
                read_member(io.BytesIO(pack), member)
    assert ERASED in pack
    assert len(read_pack_index(store.local_path(key))) == 4
    noted = json.loads(store.get(layout.erased_key(key)))
    assert (noted["recipe_ids"], noted["sha256"]) == ([GONE], hashlib.sha256(pack).hexdigest())


def test_a_release_loses_the_caption_and_keeps_a_root_hash_that_can_be_checked(federation):
    before = manifest(federation)
    take_back(federation, [GONE], **WHY)
    after = manifest(federation)

    captions = dict(after.select("recipe_id", "caption").iter_rows())
    assert captions[GONE] == ""
    assert captions[KEPT] == "Caption 1"
    assert root_of(after) != root_of(before)
    leaves = read_redactions(federation.store("local"), WAVE)
    assert root_of(after, redacted=leaves) == root_of(before)
    forged = after.with_columns(caption=pl.lit("another one"))
    assert root_of(forged, redacted=leaves) != root_of(before)


def test_doing_it_again_changes_nothing_and_asks_for_no_new_audit(federation):
    take_back(federation, [GONE], **WHY)
    stores = [federation.store(name) for name in federation.names]
    before = [[(key, store.get(key)) for key, _ in store.list()] for store in stores]

    again = take_back(federation, [GONE], **WHY)

    assert [[(key, store.get(key)) for key, _ in store.list()] for store in stores] == before
    assert sum(each.num_rows + each.num_packs for each in again) == 0
    audits = federation.log("aws").read("audits")
    assert audits.select("actor", "action", "of_id", "reason").rows() == [
        ("ml@example.org", "retract", GONE, "a person asked for it")
    ]


def test_a_run_that_was_killed_after_the_logs_is_finished_by_the_next(federation, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("resources.retractions.erase_clips", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            take_back(federation, [GONE], **WHY)

    assert [each.num_packs for each in take_back(federation, [GONE], **WHY)] == [0, 1]


def test_an_unknown_clip_stops_everything_before_it_begins(federation):
    before = federation.federated_log().position()

    with pytest.raises(UnknownKeyError, match="No clip has the key 'nobody'"):
        take_back(federation, [GONE, "nobody"], **WHY)
    assert federation.federated_log().position() == before


def test_without_a_purge_old_batches_still_hold_it_and_with_it_nothing_does(federation):
    store, caption = federation.store("aws"), "Caption 0"
    take_back(federation, [GONE], **WHY)
    held = [key for key, _ in store.list("logs") if caption_in(store, key, caption)]
    assert held

    told = take_back(federation, [GONE], **WHY, purge=True)

    assert told[1].num_purged >= 4
    assert not [key for key, _ in store.list("logs") if caption_in(store, key, caption)]
    assert federation.log("aws").read("captions")["caption"].to_list() == ["Caption 1"]
    assert federation.log("gcp").read("captions").height == 2


def caption_in(store, key, caption):
    if not key.endswith(".parquet"):
        return False
    table = pl.read_parquet(io.BytesIO(store.get(key)))
    return "caption" in table.columns and caption in set(table["caption"])


def test_a_purged_log_still_drops_the_same_rows_and_numbers_go_on(federation):
    log = federation.log("aws")
    take_back(federation, [GONE], **WHY, purge=True)

    assert log.append("vectors", rows.vectors(range(3), city="tokyo")) == 1
    assert [batch.seq for batch in log.batch_hashes("vectors")] == [1, 2]
    assert set(log.read("vectors")["recipe_id"]) == {
        rows.ids(i, city="tokyo")["recipe_id"] for i in (1, 2)
    }
    assert log.unclaimed() == []


def test_mirrors_forget_what_was_purged(federation, tmp_path):
    log = federation.log("aws").model_copy(update={"mirror": str(tmp_path / "mirror")})
    log.sync()
    take_back(federation, [GONE], **WHY, purge=True)

    assert log.read("captions")["caption"].to_list() == ["Caption 1"]
    kept = [pl.read_parquet(path) for path in (tmp_path / "mirror").rglob("captions/*.parquet")]
    assert [table["caption"].to_list() for table in kept] == [[None, "Caption 1"]]


@pytest.mark.parametrize("killed_at", ["log.batch_written", "log.claimed"])
def test_a_purge_that_was_killed_is_finished_by_the_next(federation, monkeypatch, killed_at):
    take_back(federation, [GONE], **WHY)

    def die(name):
        if name == killed_at:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("resources.site_log.reached", die)
        with pytest.raises(KeyboardInterrupt):
            take_back(federation, [GONE], **WHY, purge=True)
    take_back(federation, [GONE], **WHY, purge=True)

    for store in (federation.store("aws"), federation.backup("aws")):
        assert not [key for key, _ in store.list("logs") if caption_in(store, key, "Caption 0")]
        assert SiteLog(store=store).unclaimed() == []


def test_only_private_rows_that_are_taken_back_can_be_purged(federation):
    log = federation.log("aws")
    with pytest.raises(ValueError, match="Call retract"):
        log.purge("captions", [GONE])
    with pytest.raises(ValueError, match="expected a private kind"):
        log.purge("lineage", [])


def test_the_backup_keeps_nothing_of_it_either(federation):
    view, backup = federation.view("aws"), federation.backup("aws")
    film = f"{GONE} rgb.mp4 ".encode() * 50
    back_up(view, backup)
    assert film in everything(backup)

    take_back(federation, [GONE], **WHY, purge=True)
    back_up(view, backup)

    assert film not in everything(backup)
    assert not [key for key, _ in backup.list() if caption_in(backup, key, "Caption 0")]
    assert SiteLog(store=backup).read("captions")["caption"].to_list() == ["Caption 1"]


def told(store):
    """Everything that a store says, tables read out: their text is compressed."""
    objects = {key: store.get(key) for key, _ in store.list()}
    tables = [pl.read_parquet(io.BytesIO(o)) for k, o in objects.items() if k.endswith(".parquet")]
    rows_of = [str(table.rows()) for table in tables]
    return b"".join([*objects.values(), *(rows.encode() for rows in rows_of)])


@pytest.mark.parametrize("saved_again", [False, True])
@pytest.mark.parametrize("number", [1, None])
def test_a_restore_of_any_state_brings_nothing_back_that_was_taken_back(
    federation, tmp_path, saved_again, number
):
    home, backup = federation.store("aws"), federation.backup("aws")
    back_up(federation.view("aws"), backup)
    film, caption = f"{GONE} rgb.mp4 ".encode() * 50, b"Caption 0"
    assert film in told(home)
    assert caption in told(home)
    take_back(federation, [GONE], **WHY, purge=True)
    if saved_again:
        back_up(federation.view("aws"), backup)
    restored = SiteStore(url=str(tmp_path / "restored"))

    done = restore(backup, restored, number=number)

    for store in (restored, backup, home):
        assert film not in told(store)
        assert caption not in told(store)
    if saved_again:  # else the other clips of the pack are at home alone until then
        assert f"{KEPT} rgb.mp4 ".encode() * 50 in told(restored)
    assert (done.num_gone > 0) == (number == 1 or not saved_again)


def test_the_newest_state_after_a_clip_was_taken_back_is_the_site_as_it_is(federation, tmp_path):
    home, backup = federation.store("aws"), federation.backup("aws")
    back_up(federation.view("aws"), backup)
    take_back(federation, [GONE], **WHY, purge=True)
    take_back(federation, [GONE], **WHY, purge=True)
    assert back_up(federation.view("aws"), backup).problems == ()
    take_back(federation, [GONE], **WHY, purge=True)  # once more must not touch what was saved
    restored = SiteStore(url=str(tmp_path / "restored"))

    restore(backup, restored)

    here, there = ({key: s.get(key) for key, _ in s.list()} for s in (home, restored))
    derived = ("/checkpoints/", "/purged-", "gallery/")
    assert there == {k: c for k, c in here.items() if not any(part in k for part in derived)}


def test_what_is_missing_without_a_mark_is_lost_and_a_restore_says_so(federation, tmp_path):
    backup = federation.backup("aws")
    back_up(federation.view("aws"), backup)
    take_back(federation, [GONE], **WHY, purge=True)
    backup.delete_many(key for key, _ in backup.list(layout.GONE))

    with pytest.raises(StoreError, match="is gone from"):
        restore(backup, SiteStore(url=str(tmp_path / "restored")))
