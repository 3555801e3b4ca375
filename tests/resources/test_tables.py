import polars as pl
import pytest

from resources.site_store import SiteStore
from resources.tables import publish, publish_record, read, read_all, read_record
from tests import rows
from worldloop.errors import MalformedRecordError, StoreError
from worldloop.records import CLIPS, MANIFEST
from worldloop.releases import compose_release


@pytest.fixture
def store(tmp_path):
    return SiteStore(url=str(tmp_path))


def manifest():
    tables = rows.wave_tables(range(3))
    return compose_release(
        clips=tables["clips"],
        signals=tables["signals"],
        dedup=tables["dedup"],
        captions=tables["prompts"],
        wave="w0001",
        site="local",
        position="{}",
        atlas_hash="a",
    ).manifest


def test_a_published_table_is_read_back(store):
    done = publish(store, CLIPS, "clips/w0001/tokyo.parquet", rows.clips(range(3)))

    assert (done.num_rows, done.changed, done.replaced) == (3, True, False)
    assert done.size_bytes == store.size("clips/w0001/tokyo.parquet")
    assert read(store, CLIPS, "clips/w0001/tokyo.parquet").equals(rows.clips(range(3)))


def test_the_same_rows_again_write_nothing(store, monkeypatch):
    publish(store, CLIPS, "clips/w0001/tokyo.parquet", rows.clips(range(3)))
    monkeypatch.setattr(SiteStore, "put", None)

    again = publish(store, CLIPS, "clips/w0001/tokyo.parquet", rows.clips(range(3)))
    assert (again.changed, again.replaced) == (False, False)


def test_newer_rows_replace_a_partition_and_a_damaged_file(store):
    key = "clips/w0001/tokyo.parquet"
    publish(store, CLIPS, key, rows.clips(range(3)))
    assert publish(store, CLIPS, key, rows.clips(range(2))).replaced
    store.put(key, b"half a fi")
    assert publish(store, CLIPS, key, rows.clips(range(2))).replaced

    assert read(store, CLIPS, key).height == 2


def test_a_manifest_is_frozen(store):
    key = "releases/w0001/manifest.parquet"
    publish(store, MANIFEST, key, manifest())

    assert not publish(store, MANIFEST, key, manifest()).changed
    with pytest.raises(StoreError, match=r"stands already with other rows.*Plan a new wave"):
        publish(store, MANIFEST, key, manifest().head(1))


def test_all_tables_of_a_folder_are_read_in_key_order(store):
    for city in ("tokyo", "lima"):
        publish(store, CLIPS, f"clips/w0001/{city}.parquet", rows.clips(range(2), city=city))

    cities = read_all(store, CLIPS, "clips/w0001")["city"].to_list()
    assert cities == ["lima", "lima", "tokyo", "tokyo"]
    assert read_all(store, CLIPS, "clips/w0002").equals(CLIPS.empty())


def test_a_record_is_written_once_and_never_changed(store):
    assert publish_record(store, "releases/w0001/release.json", {"version": 1})
    assert not publish_record(store, "releases/w0001/release.json", {"version": 1})
    assert read_record(store, "releases/w0001/release.json") == {"version": 1}
    with pytest.raises(StoreError, match="frozen"):
        publish_record(store, "releases/w0001/release.json", {"version": 2})


@pytest.mark.parametrize("content", [b"{", b"[1]"])
def test_what_is_no_json_object_is_refused(store, content):
    store.put("plans/w0001.json", content)

    with pytest.raises(MalformedRecordError, match="JSON"):
        read_record(store, "plans/w0001.json")


def test_a_table_of_another_kind_is_refused(store):
    publish(store, CLIPS, "a.parquet", rows.clips(range(1)))

    with pytest.raises(MalformedRecordError, match="clips/1"):
        read(store, MANIFEST, "a.parquet")
    with pytest.raises(MalformedRecordError, match="expected exactly the columns"):
        publish(store, CLIPS, "b.parquet", pl.DataFrame({"wave": ["w0001"]}))
    assert not store.exists("b.parquet")
