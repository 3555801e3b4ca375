"""Today's readers open what released writers wrote, and `migrate` makes old files current."""

import hashlib
import json
from pathlib import Path

import polars as pl
import pytest

from tests import rows
from worldloop import migrations, records
from worldloop.layout import batch_key, manifest_key, plan_key, projection_key, release_key
from worldloop.logs import KINDS, RETRACTIONS, Kind, payload, read_batch
from worldloop.migrations import migrate
from worldloop.packs import read_member, read_pack_index
from worldloop.records import CLIPS, TABLES, Table, read_table, table_bytes, table_label
from worldloop.releases import merkle_root, read_release
from worldloop.waves import WavePlan

GOLDEN = Path(__file__).parents[1] / "golden" / "formats" / "v1"
SECOND = GOLDEN.with_name("v2")
THIRD, FOURTH, FIFTH = (GOLDEN.with_name(version) for version in ("v3", "v4", "v5"))
SINCE_3 = {"audits", "projections", "queries", "reconciliations"}
SINCE_4 = {"round_deltas", "round_waves", "rounds"}
LATER = {"generations", "blocked"} | SINCE_3 | SINCE_4  # tables that the first release did not have


class DictFiles:
    """A store in a dictionary."""

    def __init__(self, files):
        self.files = dict(files)

    def list(self, prefix=""):
        return [(key, len(content)) for key, content in sorted(self.files.items())]

    def get(self, key):
        return self.files[key]

    def put(self, key, content):
        self.files[key] = content


def golden(name):
    return (GOLDEN / name).read_bytes()


@pytest.fixture
def site():
    """A site whose files were all written by version 1."""
    files = {
        f"{name}/w0001/tokyo.parquet": golden(f"{name}.parquet") for name in ("prompts", "clips")
    }
    files["cosmos_clips/w0001/tokyo.parquet"] = golden("clips.parquet")
    files["receipts/w0001/tokyo.generate.parquet"] = (SECOND / "receipts.parquet").read_bytes()
    files[manifest_key("w0001")] = golden("manifest.parquet")
    files[release_key("w0001")] = golden("release.json")
    files[plan_key("w0001")] = (FIFTH / "plan.json").read_bytes()
    batch = golden("log_clips.parquet")
    files[batch_key("private", "clips", 1, hashlib.sha256(batch).hexdigest())] = batch
    files["logs/private/clips/claims/000000000001"] = hashlib.sha256(batch).hexdigest().encode()
    files["gallery/index.html"] = b"not ours to check"
    return DictFiles(files)


def actions(reports):
    return {report.key.split("/")[0]: report.action for report in reports}


@pytest.mark.parametrize("name", sorted(TABLES.keys() - LATER))
def test_version_1_of_every_table_is_read(name):
    table = read_table(TABLES[name], golden(f"{name}.parquet"))

    assert table.height >= 1
    assert table_label(golden(f"{name}.parquet")) == (name, 1)


@pytest.mark.parametrize(
    "name", ["receipts", "lineage", "generations", "blocked", *sorted(SINCE_3 | SINCE_4)]
)
def test_what_changed_or_came_later_is_read(name):
    folder = THIRD if name in SINCE_3 else FOURTH if name in SINCE_4 else SECOND
    content, batch = ((folder / f"{prefix}{name}.parquet").read_bytes() for prefix in ("", "log_"))

    table = read_table(TABLES[name], content)
    assert table.height >= 1
    assert payload(KINDS[name], read_batch(KINDS[name], batch)).equals(table)


def test_what_version_1_did_not_measure_is_null_and_its_clips_are_sketches():
    receipts = read_table(TABLES["receipts"], golden("receipts.parquet"))
    lineage = read_batch(KINDS["lineage"], golden("log_lineage.parquet"))

    assert receipts["ms_per_step"].null_count() == receipts.height
    assert lineage["tier"].unique().to_list() == ["sketch"]
    assert lineage["sketch_recipe_id"].null_count() == lineage.height


def test_plans_of_every_version_are_read():
    first, second, third = (
        WavePlan.from_record(json.loads((folder / "plan.json").read_text()))
        for folder in (GOLDEN, SECOND, FIFTH)
    )

    assert first.world_model is None
    assert second.world_model.model == "Tiny-Cosmos-Predict2-Video2World"
    assert [clip.asked for clip in second.clips] == [{}, {}]
    assert third.clips[1].asked == {"season": "winter", "camera": "drone"}


@pytest.mark.parametrize("name", sorted({*KINDS, "retractions"} - LATER))
def test_version_1_of_every_log_batch_is_read(name):
    kind = KINDS.get(name) or RETRACTIONS["private"]
    batch = read_batch(kind, golden(f"log_{name}.parquet"))

    assert batch["kind"].unique().to_list() == [name]
    assert payload(kind, batch).equals(read_table(kind.table, golden(f"{kind.table.name}.parquet")))


def test_version_1_of_plan_release_and_pack_is_read():
    plan = WavePlan.from_record(json.loads(golden("plan.json")))
    release = read_release(json.loads(golden("release.json")))
    members = read_pack_index(GOLDEN / "pack.tar")

    assert plan.cities == ("tokyo", "lima")
    assert release["num_clips"] == 1
    assert release["root_hash"] != merkle_root([])
    with (GOLDEN / "pack.tar").open("rb") as pack:
        assert read_member(pack, members[1]) == b"not really a video"


def test_a_site_of_today_has_nothing_to_migrate(site):
    before = dict(site.files)
    reports = migrate(site)

    assert {report.action for report in reports} == {"current"}
    assert {report.name for report in reports} == {
        "prompts",
        "clips",
        "receipts",
        "manifest",
        "release",
        "plan",
    }
    assert site.files == before


@pytest.mark.parametrize(
    "key",
    [
        projection_key("lance"),
        "projections/agreement.json",
        "rounds/r0001/plan.json",
        "rounds/r0001/sites/aws/scores.parquet",
        "releases/w0001/redactions.json",
    ],
)
def test_a_file_with_a_format_of_its_own_is_not_taken_for_damaged(site, key):
    before = migrate(site)
    site.put(key, b'{"version": 1, "leaves": {}}')

    assert migrate(site) == before


def test_an_old_plan_is_kept_as_it_is_and_old_receipts_are_upgraded(site):
    site.put(plan_key("w0001"), golden("plan.json"))
    site.put("receipts/w0001/tokyo.render.parquet", golden("receipts.parquet"))

    done = {report.key: report.action for report in migrate(site)}

    assert done[plan_key("w0001")] == "kept"
    assert site.get(plan_key("w0001")) == golden("plan.json")
    assert done["receipts/w0001/tokyo.render.parquet"] == "upgraded"
    assert table_label(site.get("receipts/w0001/tokyo.render.parquet")) == ("receipts", 2)


def test_old_tables_are_upgraded_in_place_and_old_batches_are_kept(site, monkeypatch):
    today = Table("clips", 2, {**CLIPS.columns, "lens_mm": pl.Float64}, CLIPS.key)
    site.files.pop("cosmos_clips/w0001/tokyo.parquet")
    lift = {("clips", 1): lambda table: table.with_columns(lens_mm=35.0)}
    monkeypatch.setattr(records, "_UPGRADES", lift)
    monkeypatch.setattr(migrations, "TABLES", {**TABLES, "clips": today})
    monkeypatch.setattr(migrations, "KINDS", {"clips": Kind("clips", "private", today)})
    before = dict(site.files)

    assert actions(migrate(site, dry_run=True))["clips"] == "to upgrade"
    assert site.files == before
    done = actions(migrate(site))
    assert (done["clips"], done["prompts"], done["logs"]) == ("upgraded", "current", "kept")
    assert table_label(site.get("clips/w0001/tokyo.parquet")) == ("clips", 2)
    assert (
        read_table(today, site.get("clips/w0001/tokyo.parquet"))["lens_mm"].to_list() == [35.0] * 3
    )
    assert actions(migrate(site))["clips"] == "current"
    assert [key for key in before if site.get(key) != before[key]] == ["clips/w0001/tokyo.parquet"]


@pytest.mark.parametrize(
    ("key", "content", "words"),
    [
        ("clips/w0001/tokyo.parquet", b"half a fi", "a parquet file"),
        (
            "clips/w0001/tokyo.parquet",
            table_bytes(Table("odd", 1, CLIPS.columns, CLIPS.key), rows.clips(range(1))),
            "'odd'",
        ),
        ("plans/w0001.json", b"{", "a JSON record"),
        ("plans/w0001.json", b'{"plan_version": 9}', "plan_version 1"),
        ("releases/w0001/release.json", b'{"version": 9}', "version 1"),
        ("logs/private/nothing/000000000001-ab.parquet", golden("log_clips.parquet"), "'nothing'"),
        ("logs/private/clips/000000000002-ab.parquet", golden("log_clips.parquet"), "in its name"),
    ],
)
def test_a_damaged_file_is_reported_and_left_alone(site, key, content, words):
    site.put(key, content)
    reports = {report.key: report for report in migrate(site)}

    assert reports[key].action == "damaged"
    assert words in reports[key].detail
    assert site.get(key) == content
    assert [report.action for report in reports.values()].count("damaged") == 1
