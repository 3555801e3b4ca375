import hashlib
import json
import shutil
from dataclasses import replace

import polars as pl
import pytest

from resources.backup import back_up
from resources.reconciler import reconcile
from resources.site_store import SiteStore
from resources.sweeper import sweep
from tests import rows
from tests.campaigns.holes import plant
from tests.resources.federated_sites import TableFiles, files, look_over, member, share
from worldloop.errors import LeaseHeldError, UnreachableError
from worldloop.layout import erased_key
from worldloop.logs import encode_position, encode_positions
from worldloop.records import RELEASES


@pytest.fixture
def sites(tmp_path):
    """Three sites: `home` has four waves with footage, a backup, and replicas at two others."""
    home, *others = (member(name, tmp_path) for name in ("home", "east", "west"))
    for wave in ("w0001", "w0002", "w0003", "w0004"):
        home.film(wave, "tokyo")
    share(home, *others)
    return home, *others


def projections(home):
    tables = [TableFiles(home, "lance"), TableFiles(home, "iceberg", ("lineage", "duplicates"))]
    for table in tables:
        table.project()
    return [table.shown for table in tables]


def truth(place):
    return files(place.store, "logs", "packs", "replicas", "lance", "iceberg")


@pytest.mark.parametrize("seed", range(20))
def test_every_planted_hole_is_found_and_repaired(sites, seed):
    home, east, _ = sites
    shown = projections(home)
    look_over(*sites, projected=shown)  # the projections' files are seen once
    before = {place.name: truth(place) for place in sites}

    holes = {place.name: plant(place.store, seed, place.name) for place in (home, east)}
    done = look_over(*sites, projected=shown)

    found = {(finding.site, finding.key) for finding in done.findings}
    planted = {(name, h.key.removeprefix("replicas/home/")) for name in holes for h in holes[name]}
    assert planted <= found
    assert done.unrepaired == []
    assert {place.name: truth(place) for place in sites} == before
    assert look_over(*sites, projected=shown).findings == []


def key_of(store, folder, part):
    return next(key for key in files(store, folder) if part in key)


def test_a_run_that_finds_nothing_says_what_it_looked_at(sites):
    done = look_over(*sites, deep=0.0)

    assert done.findings == []
    assert done.rows["num_missing"].sum() == 0
    places = set(done.rows.select("site", "of_kind").iter_rows())
    assert {("home", "packs"), ("east", "lineage"), ("home/backup", "vectors")} <= places
    assert sites[0].log.append("reconciliations", done.rows) == done.rows.height


def test_listings_alone_show_what_is_gone_or_cut_short(sites):
    home, east, _ = sites
    batch = key_of(home.store, "logs/private/clips", "000000000002-")
    claim, pack = "logs/shared/lineage/claims/000000000001", key_of(home.store, "packs", "w0002")
    home.store.put(batch, home.store.get(batch)[:-9])
    home.store.put(pack, home.store.get(pack)[:-9])
    east.store.delete(f"replicas/home/{claim}")

    done = look_over(*sites, deep=0.0)
    assert {(f.site, f.key, f.what) for f in done.findings} == {
        ("home", batch, "damaged"),
        ("home", pack, "damaged"),
        ("east", claim, "missing"),
    }
    assert done.unrepaired == []


def test_every_object_is_read_once_in_a_round_of_turns(sites):
    home = sites[0]
    claims = [key for key in files(home.store, "logs") if "/claims/" in key]
    for key in claims:
        home.store.put(key, b"0" * 64)

    found = [
        {f.key for f in look_over(*sites, deep=0.25, turn=turn, repair=False).findings}
        for turn in range(4)
    ]
    assert set.union(*found) == set(claims)
    assert sum(map(len, found)) == len(claims)


def test_a_dry_run_says_what_it_would_do_and_does_nothing(sites):
    home = sites[0]
    key = key_of(home.store, "packs", "w0001")
    home.store.delete(key)

    (finding,) = look_over(*sites, repair=False).findings
    assert (finding.key, finding.repaired) == (key, False)
    assert "from the backup" in finding.repair
    assert not home.store.exists(key)


def test_a_newest_batch_that_is_lost_with_its_claim_comes_back_from_a_replica(sites):
    home = sites[0]
    before = home.log.read("lineage")
    home.store.delete("logs/shared/lineage/claims/000000000004")
    home.store.delete(key_of(home.store, "logs/shared/lineage", "000000000004-"))
    home.backup.delete("logs/shared/lineage/claims/000000000004")

    assert look_over(*sites).unrepaired == []
    assert home.log.read("lineage").equals(before)


def test_a_lost_newest_batch_shows_by_the_position_of_a_release(tmp_path):
    home = member("home", tmp_path)
    for wave in ("w0001", "w0002"):
        home.film(wave, "tokyo")
    position = home.log.position()
    home.store.delete("logs/private/clips/claims/000000000002")

    assert reconcile(home.view).findings == []  # nothing is left that could tell
    (finding,) = reconcile(home.view, known=[position]).findings
    assert (finding.key, finding.repaired) == ("logs/private/clips/claims/000000000002", True)
    assert home.log.read("clips").height == 4


def test_positions_of_releases_are_looked_up(tmp_path):
    home = member("home", tmp_path)
    home.film("w0001", "tokyo")
    facts = {"wave": "w0001", "site": "local", "root_hash": "ab", "atlas_hash": "cd"}
    counts = {"num_clips": 2, "num_rejected": 0, "duration_s": 4.0}
    position = encode_positions(
        {"local": encode_position({"private": {}, "shared": {}}), "home": home.log.position()}
    )
    release = pl.DataFrame([{**facts, **counts, "log_position": position}])
    home.log.append("releases", RELEASES.conform(release))
    home.store.delete("logs/private/clips/claims/000000000001")

    assert [f.key for f in reconcile(home.view).findings if f.repaired] == [
        "logs/private/clips/claims/000000000001"
    ]


def test_a_batch_that_only_a_checkpoint_has_is_cut_out_of_it(tmp_path):
    home = member("home", tmp_path)
    for wave in ("w0001", "w0002", "w0003"):
        home.film(wave, "tokyo")
    before = files(home.store)
    home.store.delete(key_of(home.store, "logs/private/vectors", "000000000002-"))

    (finding,) = reconcile(home.view).findings
    assert (finding.repaired, finding.repair) == (True, "put back from a checkpoint's rows")
    assert files(home.store) == before


def test_a_batch_that_is_nowhere_is_a_loss_that_names_its_rows(tmp_path):
    home = member("home", tmp_path)
    for wave in ("w0001", "w0002", "w0003"):
        home.film(wave, "tokyo")
    lost = home.log.read("clips", waves=["w0001", "w0002"])["id"]
    for number in ("1", "2"):  # neighbours: nothing says where one ends in the checkpoint
        home.store.delete(key_of(home.store, "logs/private/clips", f"00000000000{number}-"))

    done = reconcile(home.view)
    assert [f.repaired for f in done.findings if f.part == "batch"] == [False, False]
    assert set(done.unrepaired[0].lost_ids) == set(lost)
    assert "NOT REPAIRED" in str(done.unrepaired[0])


def test_two_batches_of_one_number_are_told_and_neither_is_overwritten(sites):
    home = sites[0]
    home.store.delete("logs/shared/lineage/claims/000000000004")
    home.store.delete(key_of(home.store, "logs/shared/lineage", "000000000004-"))
    home.log.append("lineage", rows.lineage(range(1), wave="w0009"))  # takes number 4 again
    before = {place.name: files(place.store, "logs", "replicas") for place in sites}

    done = look_over(*sites)
    forks = {(f.site, f.what) for f in done.unrepaired if f.part == "claim"}
    assert forks == {(place, "differs") for place in ("east", "west", "home/backup")}
    assert {place.name: files(place.store, "logs", "replicas") for place in sites} == before


def test_a_place_that_does_not_answer_is_named_and_the_rest_is_done(sites, tmp_path):
    home, east, _ = sites
    (tmp_path / "file").write_text("not a folder")
    home.store.delete("logs/shared/lineage/claims/000000000002")
    away = SiteStore(url=str(tmp_path / "file" / "store"))

    done = reconcile(home.view, others={"away": away, "east": east.store})
    assert list(done.unreachable) == ["away"]
    assert [f.repaired for f in done.findings] == [True]


def test_a_pack_without_a_backup_says_how_to_make_it_again(tmp_path):
    home = member("home", tmp_path)
    key = home.film("w0001", "tokyo")["pack_key"][0]
    home.store.delete(key)

    (finding,) = reconcile(home.view).findings
    assert not finding.repaired
    assert "materialise rendered_clips of tokyo|w0001" in finding.repair


def test_a_pack_that_was_removed_to_save_disk_is_no_hole(sites):
    home = sites[0]
    home.store.put("releases/w0001/release.json", b"{}")
    sweep(home.store, max_disk_gb=0.0, keep_waves=0, apply=True)
    assert not home.store.list("packs/w0001")

    assert look_over(*sites).findings == []


def test_a_pack_with_clips_that_were_taken_back_stays_as_it_is(sites):
    home = sites[0]
    key = key_of(home.store, "packs", "w0001")
    erased = bytes(len(home.store.get(key)))
    record = {"sha256": hashlib.sha256(erased).hexdigest()}
    home.store.put(erased_key(key), json.dumps(record).encode())
    home.store.put(key, erased)
    assert look_over(*sites).findings == []

    home.store.delete(key)
    assert not look_over(*sites).unrepaired[0].repaired  # the backup has only what was taken back

    home.store.put(key, erased)
    back_up(home.view, home.backup)
    home.store.delete(key)
    assert look_over(*sites).unrepaired == []
    assert home.store.get(key) == erased


def test_a_damaged_backup_is_mended_from_home(sites):
    home = sites[0]
    before = files(home.backup, "logs")
    plant(home.backup, 7, classes=("batch", "claim"))

    done = look_over(*sites)
    assert {f.site for f in done.findings} == {"home/backup"}
    assert files(home.backup, "logs") == before


def test_what_this_machine_has_read_brings_back_what_every_store_lost(tmp_path):
    home = member("home", tmp_path)
    home.film("w0001", "tokyo")
    shutil.copytree(home.store.local_path("logs"), tmp_path / "mirror" / "logs")
    before = files(home.store)
    for key in list(files(home.store, "logs/private/clips")):
        home.store.delete(key)

    log = home.log.model_copy(update={"mirror": str(tmp_path / "mirror")})
    done = reconcile(replace(home.view, log=log))
    assert [f.repaired for f in done.findings] == [True, True]
    assert files(home.store) == before


def test_rows_that_a_projection_lacks_are_projected_again(sites):
    home = sites[0]
    (shown,) = [p for p in projections(home) if p.name == "lance"]
    asked = []
    home.film("w0005", "lima")
    heal = lambda waves: (asked.append(waves), shown.heal(waves))  # noqa: E731

    done = look_over(*sites, projected=[replace(shown, heal=heal, files=None)])
    lacking = [f for f in done.findings if f.part == "rows"]
    assert [(f.num_things, f.repaired) for f in lacking] == [(2, True), (2, True)]
    assert asked == [frozenset({"w0005"})]


def test_a_projection_that_cannot_be_made_again_now_is_told(sites):
    home = sites[0]
    (shown,) = [p for p in projections(home) if p.name == "lance"]
    home.film("w0005", "lima")

    def heal(_waves):
        raise LeaseHeldError("projection-lance", "somebody", left_s=9.0)

    done = look_over(*sites, projected=[replace(shown, heal=heal, files=None)])
    assert {f.of_kind for f in done.unrepaired} == {"lance"}
    assert "somebody holds the lease" in str(done.unrepaired[0])


def test_a_place_that_falls_silent_meanwhile_is_given_up(sites):
    home, east, _ = sites
    home.store.delete("logs/shared/lineage/claims/000000000002")

    class Fading(SiteStore):
        def get(self, key):
            raise UnreachableError(f"{self.url!r} does not answer.")

    fading = Fading(url=east.store.url)
    done = reconcile(home.view, others={"east": fading}, backup=home.backup)
    assert list(done.unreachable) == ["east"]
    assert [f.repaired for f in done.findings] == [True]
