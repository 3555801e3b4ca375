import shutil

import duckdb
import numpy as np
import polars as pl
import pytest

from resources import failpoints
from resources.iceberg_catalog import connected, warehouse_of
from resources.lease import Lease
from tests import rows
from tests.lake_sites import ICEBERG, lake_site, share_all
from worldloop.catalog_tables import KIND_TABLES, TABLES
from worldloop.errors import LeaseHeldError, MalformedRecordError, UnknownKeyError
from worldloop.logs import KINDS


@pytest.fixture
def site(tmp_path):
    return lake_site(tmp_path)


class KilledError(Exception):
    """Stands for a kill: nothing after the moment is done."""


@pytest.fixture
def at_moment(monkeypatch):
    """Does something at a moment, once: a kill when nothing else is said."""

    def install(moment, step=None):
        def watcher(name):
            if name == moment:
                monkeypatch.setattr(failpoints, "_watchers", [])
                if step is None:
                    raise KilledError(name)
                step()

        monkeypatch.setattr(failpoints, "_watchers", [watcher])

    return install


def test_polars_reads_in_the_wide_table_what_became_of_each_clip(site):
    site.film(rejected=(1,), duplicates=(2,))
    site.release(num=1)
    ICEBERG.catch_up(site.view)
    found = site.scanned()

    assert found["status"].to_list() == ["accepted", "rejected", "duplicate", "accepted"]
    assert found["reason"].to_list() == ["", "too dark", "semantic", ""]
    assert found["duplicate_of"][2] == found["recipe_id"][0]
    assert found["release"].to_list() == ["w0001", None, None, None]
    assert set(found["origin"]) == {"local"}


def test_duckdb_reads_the_same_rows_from_the_data_files(site):
    site.film()
    ICEBERG.catch_up(site.view)
    files = [str(path) for path in site.local_files("clips", "data/**/*.parquet")]
    found = duckdb.sql(f"select * from read_parquet({files}) order by wave, index").pl()

    assert found.select(list(TABLES["clips"].columns)).equals(ICEBERG.read(site.view))


def test_every_kind_of_scalar_rows_has_its_table_and_no_text_is_in_one(site):
    site.film()
    ICEBERG.catch_up(site.view)
    standing = {t.name: site.scanned(t.name) for t in KIND_TABLES}
    columns = {name for found in standing.values() for name in found.columns}

    assert {name for name, found in standing.items() if found.height} == {
        *("clip_files", "receipts", "lineage", "scores", "duplicates"),
    }
    assert not columns & {"caption", "prose", "scene", "vector", "prompt", "recipe", "members"}


def test_catching_up_again_commits_nothing(site):
    site.film()
    first = ICEBERG.catch_up(site.view)
    before = site.store.list("iceberg")
    again = ICEBERG.catch_up(site.view)

    assert (first.num_batches, first.rebuilt) == (5, False)
    assert (again.num_batches, again.num_rows, site.store.list("iceberg")) == (0, 0, before)


def test_a_later_wave_writes_only_its_own_part_of_the_wide_table(site):
    site.film("w0001")
    ICEBERG.catch_up(site.view)
    before = {path.name for path in site.local_files("clips", "data/**/*.parquet")}
    site.film("w0002")
    ICEBERG.catch_up(site.view)
    after = {path.name for path in site.local_files("clips", "data/**/*.parquet")}

    assert len(before) == 1
    assert len(after - before) == 1
    assert ICEBERG.read(site.view)["wave"].to_list() == ["w0001"] * 4 + ["w0002"] * 4


def test_what_stands_behind_is_counted_and_dated(site):
    site.film()
    ICEBERG.catch_up(site.view)
    site.film("w0002")
    behind = ICEBERG.standing(site.view)

    assert (behind.num_rows, behind.num_behind) == (4, 5)
    assert behind.oldest_behind_at == site.log.claimed_at("clips", 2)
    assert behind.size_bytes > 0
    assert behind.location.endswith("/iceberg")


def test_rows_about_the_catalogs_are_taken_along_and_never_a_reason(site):
    site.film()
    ICEBERG.catch_up(site.view)
    audit = {"audit_id": "a", "actor": "me", "action": "retract", "of_kind": "x", "of_id": "y"}
    site.log.append("audits", _filled("audits", audit))

    assert ICEBERG.standing(site.view).num_behind == 0
    assert ICEBERG.catch_up(site.view).num_batches == 0
    site.film("w0002")
    ICEBERG.catch_up(site.view)
    assert site.scanned("audits")["actor"].to_list() == ["me"]


def test_a_clip_that_is_taken_back_leaves_every_table(site):
    recipes = site.film()
    site.film("w0002")
    ICEBERG.catch_up(site.view)
    for kind in ("lineage", "scores", "duplicates", "clips"):
        site.log.retract(kind, [recipes[0]], reason="asked for")
    ICEBERG.catch_up(site.view)

    for name in ("clips", "lineage", "scores", "duplicates", "clip_files"):
        found = site.scanned(name)
        assert (found.height, recipes[0] in found["recipe_id"]) == (7, False)
    assert ICEBERG.disagreements(site.view) == {}


def test_a_late_decision_changes_the_wave_that_it_is_about(site):
    recipes = site.film("w0002")
    ICEBERG.catch_up(site.view)
    site.film("w0001")
    late = rows.superseded(0, 0).with_columns(
        recipe_id=pl.lit(recipes[3]),
        superseded_by=pl.lit(rows.ids(0, wave="w0001", city="local")["recipe_id"]),
    )
    site.log.append("superseded", late)
    ICEBERG.catch_up(site.view)

    changed = ICEBERG.read(site.view).filter(pl.col("recipe_id") == recipes[3])
    assert changed["status"].to_list() == ["duplicate"]
    assert changed["duplicate_of"].to_list() == late["superseded_by"].to_list()


def test_a_release_keeps_its_snapshot_until_it_is_taken_back(site):
    site.film()
    site.release()
    ICEBERG.catch_up(site.view)
    site.film("w0002")
    ICEBERG.catch_up(site.view)
    kept = site.opened()
    then = kept.iceberg.scan().use_ref("release-w0001").to_arrow()
    site.log.retract("releases", ["w0001"], reason="asked for")
    ICEBERG.catch_up(site.view)

    assert (then.num_rows, kept.standing.num_rows) == (4, 8)
    assert site.opened().tags == set()


def test_a_clip_that_is_taken_back_leaves_the_snapshot_of_its_release_too(site):
    recipes = site.film()
    site.release()
    ICEBERG.catch_up(site.view)
    site.log.retract("lineage", recipes[:1], reason="asked for")
    ICEBERG.catch_up(site.view)
    then = site.opened().iceberg.scan().use_ref("release-w0001").to_arrow()

    assert then["recipe_id"].to_pylist() == recipes[1:]


@pytest.mark.parametrize("moment", ["data_written", "before_commit", "after_commit"])
@pytest.mark.parametrize("nth", [1, 4])
def test_a_kill_anywhere_is_healed_by_running_again(site, at_moment, moment, nth):
    site.film("w0001")
    ICEBERG.catch_up(site.view)
    recipes = site.film("w0002", duplicates=(1,))
    site.log.retract("lineage", recipes[:1], reason="asked for")

    def again(left=nth - 1):
        at_moment(f"iceberg.{moment}", (lambda: again(left - 1)) if left else None)

    again()
    with pytest.raises(KilledError):
        ICEBERG.catch_up(site.view)
    ICEBERG.catch_up(site.view)
    assert ICEBERG.disagreements(site.view) == {}
    assert ICEBERG.standing(site.view).num_behind == 0


def test_a_second_committer_is_refused(site):
    with (
        Lease(site.store, "projection-iceberg", "run 7"),
        pytest.raises(LeaseHeldError, match="run 7"),
    ):
        ICEBERG.catch_up(site.view)


def test_with_nothing_new_no_lease_is_needed(site):
    site.film()
    ICEBERG.catch_up(site.view)
    ICEBERG.catch_up(site.view)
    with Lease(site.store, "projection-iceberg", "run 7"):
        assert ICEBERG.catch_up(site.view).num_batches == 0


def drop_a_table(site):
    with connected(site.view) as catalog:
        catalog.drop_table(("worldloop", "scores"))


def lose_metadata(site):
    for path in site.local_files("scores", "metadata/*.metadata.json"):
        path.unlink()


def spoil_the_note(site):
    site.store.put("projections/iceberg.json", b"{")


@pytest.mark.parametrize("harm", [drop_a_table, lose_metadata, spoil_the_note])
def test_with_nothing_new_a_changed_table_is_noticed(site, harm):
    site.film()
    ICEBERG.catch_up(site.view)
    ICEBERG.catch_up(site.view)
    harm(site)
    with Lease(site.store, "projection-iceberg", "run 7"), pytest.raises(LeaseHeldError):
        ICEBERG.catch_up(site.view)

    ICEBERG.catch_up(site.view)
    assert ICEBERG.disagreements(site.view) == {}


def test_a_committer_that_lost_its_lease_commits_nothing(site, at_moment):
    site.film()
    leases = site.store.local_path("leases/projection-iceberg")
    at_moment("iceberg.data_written", lambda: (leases / "000000000009").write_bytes(b"{}"))
    with pytest.raises(LeaseHeldError):
        ICEBERG.catch_up(site.view)
    assert site.opened("clip_files").standing.num_rows == 0


def test_a_commit_that_came_between_is_waited_for_and_adds_nothing_twice(site, at_moment):
    site.film()
    ICEBERG.catch_up(site.view)
    site.film("w0002")

    def another_commits():
        with connected(site.view) as catalog:
            table = catalog.load_table(("worldloop", "clip_files"))
            table.transaction().set_properties({"note": "of somebody else"}).commit_transaction()

    at_moment("iceberg.before_commit", another_commits)
    ICEBERG.catch_up(site.view)
    assert ICEBERG.disagreements(site.view) == {}


def test_rows_that_somebody_else_wrote_into_a_table_are_replaced(site):
    site.film()
    ICEBERG.catch_up(site.view)
    with connected(site.view) as catalog:
        table = catalog.load_table(("worldloop", "lineage"))
        table.append(table.scan().to_arrow())

    assert ICEBERG.catch_up(site.view).rebuilt
    assert ICEBERG.disagreements(site.view) == {}


def test_a_table_that_was_dropped_by_hand_is_found_again_by_its_files(site):
    site.film()
    ICEBERG.catch_up(site.view)
    before = site.opened().iceberg.metadata.table_uuid
    with connected(site.view) as catalog:
        catalog.drop_table(("worldloop", "clips"))
    site.film("w0002")
    ICEBERG.catch_up(site.view)

    assert site.opened().iceberg.metadata.table_uuid == before
    assert ICEBERG.disagreements(site.view) == {}


def test_a_lost_database_is_made_again_from_the_files(site):
    site.film()
    ICEBERG.catch_up(site.view)
    (site.scratch / "iceberg.sqlite").unlink()

    assert ICEBERG.catch_up(site.view).num_batches == 0
    assert ICEBERG.read(site.view).height == 4


def test_everything_is_made_again_after_all_files_are_gone(site):
    site.film()
    ICEBERG.catch_up(site.view)
    before = ICEBERG.content_hash(site.view)
    shutil.rmtree(site.store.local_path("iceberg"))

    assert ICEBERG.catch_up(site.view).rebuilt
    assert ICEBERG.content_hash(site.view) == before


@pytest.mark.parametrize(
    ("pattern", "harm"),
    [
        ("metadata/*.metadata.json", "unlink"),
        ("metadata/*.metadata.json", "cut"),
        ("metadata/snap-*.avro", "unlink"),
        ("metadata/*-m0.avro", "cut"),
        ("data/**/*.parquet", "unlink"),
        ("data/**/*.parquet", "cut"),
    ],
)
def test_a_table_with_a_broken_file_is_made_anew(site, pattern, harm):
    site.film()
    ICEBERG.catch_up(site.view)
    broken = site.local_files("clips", pattern)[-1]
    if harm == "unlink":
        broken.unlink()
    else:
        broken.write_bytes(broken.read_bytes()[:100])

    assert ICEBERG.maintain(site.view)["rebuilt"] == 1
    assert ICEBERG.disagreements(site.view) == {}


def test_a_foreign_table_under_our_name_is_left_alone(site):
    with connected(site.view) as catalog:
        catalog.create_namespace("worldloop")
        schema = pl.DataFrame({"mine": [1]}).to_arrow().schema
        catalog.create_table(("worldloop", "lineage"), schema)
    site.film()
    for verb in (ICEBERG.catch_up, ICEBERG.rebuild, ICEBERG.maintain, ICEBERG.standing):
        with pytest.raises(MalformedRecordError, match="It is left as it is"):
            verb(site.view)
    with connected(site.view) as catalog:
        assert catalog.load_table(("worldloop", "lineage")).schema().column_names == ["mine"]


def test_a_table_of_another_site_is_foreign(site, tmp_path):
    ICEBERG.catch_up(site.view)
    other = lake_site(tmp_path, "aws")
    other.store, other.scratch = site.store, tmp_path / "elsewhere"
    with pytest.raises(MalformedRecordError, match="for the site 'aws'"):
        ICEBERG.catch_up(other.view)


def test_columns_that_somebody_added_are_told_of_and_a_rebuild_mends_them(site):
    site.film()
    ICEBERG.catch_up(site.view)
    with connected(site.view) as catalog:
        from pyiceberg.types import StringType

        with catalog.load_table(("worldloop", "scores")).update_schema() as update:
            update.add_column("remark", StringType())
    with pytest.raises(MalformedRecordError, match="worldloop catalog rebuild"):
        ICEBERG.catch_up(site.view)
    assert ICEBERG.rebuild(site.view).rebuilt
    assert ICEBERG.disagreements(site.view) == {}


def test_a_column_of_a_later_release_is_added_behind_the_others_and_filled(site, monkeypatch):
    from resources import iceberg_news, iceberg_projection

    today = TABLES["lineage"]
    fewer = {name: kind for name, kind in today.columns.items() if name != "sketch_recipe_id"}
    site.film()
    older = type(today)(today.name, fewer, today.key, today.kinds, kind=today.kind)
    for module in (iceberg_projection, iceberg_news):
        monkeypatch.setattr(module, "TABLES", {**TABLES, "lineage": older})
    ICEBERG.catch_up(site.view)
    monkeypatch.undo()

    assert ICEBERG.catch_up(site.view).rebuilt
    fields = site.opened("lineage").iceberg.schema().fields
    assert {f.name: f.field_id for f in fields} == _places("lineage")
    assert ICEBERG.disagreements(site.view) == {}


def test_a_fresh_table_has_the_field_ids_that_its_columns_are_promised(site):
    ICEBERG.catch_up(site.view)
    for name in TABLES:
        fields = site.opened(name).iceberg.schema().fields
        assert {f.name: f.field_id for f in fields} == _places(name)


def test_a_log_that_was_put_back_to_another_past_is_noticed(site):
    site.film("w0001")
    ICEBERG.catch_up(site.view)
    shutil.rmtree(site.store.local_path("logs"))
    site.film("w0003")
    site.film("w0004")
    ICEBERG.catch_up(site.view)

    assert set(ICEBERG.read(site.view)["wave"]) == {"w0003", "w0004"}
    assert ICEBERG.disagreements(site.view) == {}


def test_a_rebuild_gives_the_rows_that_grew_step_by_step(site):
    site.film("w0001", rejected=(1,))
    ICEBERG.catch_up(site.view)
    site.film("w0002", duplicates=(3,))
    site.release("w0001")
    ICEBERG.catch_up(site.view)
    grown = {name: ICEBERG.read(site.view, name) for name in TABLES}
    again = ICEBERG.rebuild(site.view)

    assert again.rebuilt
    assert all(ICEBERG.read(site.view, name).equals(grown[name]) for name in TABLES)


@pytest.mark.parametrize("seed", [1, 2])
def test_sites_agree_whatever_the_order_in_which_batches_came(tmp_path, seed):
    rng = np.random.default_rng(seed)
    names = ("local", "aws", "gcp")
    sites = [lake_site(tmp_path, n, tuple(o for o in names if o != n)) for n in names]
    films = [(site, wave) for site in sites for wave in ("w0001", "w0002")]
    for place in rng.permutation(len(films)):
        site, wave = films[place]
        recipes = site.film(wave, num=3, rejected=(0,), duplicates=(int(rng.integers(1, 3)),))
        if rng.random() < 0.5:
            kind = str(rng.choice(["lineage", "scores", "duplicates"]))
            site.log.retract(kind, [recipes[int(rng.integers(3))]], reason="asked for")
        if rng.random() < 0.5:
            share_all(sites)
            ICEBERG.catch_up(sites[int(rng.integers(3))].view)
    share_all(sites)
    for site in sites:
        ICEBERG.catch_up(site.view)

    assert len({ICEBERG.content_hash(site.view) for site in sites}) == 1
    assert [ICEBERG.disagreements(site.view) for site in sites] == [{}] * 3


def test_a_table_that_there_is_not_is_told_of(site):
    with pytest.raises(UnknownKeyError, match="lineages"):
        ICEBERG.read(site.view, "lineages")


def test_what_others_register_names_the_newest_metadata(site):
    site.film()
    ICEBERG.catch_up(site.view)
    found = ICEBERG.tables(site.view)

    assert set(found) == set(TABLES)
    assert found["clips"].num_rows == 4
    assert found["clips"].metadata_location == site.opened().iceberg.metadata_location
    assert found["clips"].columns["duration_s"] == "double"
    assert found["clips"].location.startswith(warehouse_of(site.view).url)


def _places(name: str) -> dict[str, int]:
    return {column: place for place, column in enumerate(TABLES[name].columns, start=1)}


def _filled(kind: str, row: dict) -> pl.DataFrame:
    return pl.DataFrame([row], schema=dict(KINDS[kind].table.columns))
