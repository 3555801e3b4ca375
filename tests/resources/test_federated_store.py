import inspect
from pathlib import Path

import pytest

from resources.federated_store import FederatedStore
from resources.federation import Federation
from resources.site_log import SiteLog
from resources.site_store import SiteStore
from tests import rows
from worldloop import layout
from worldloop.errors import (
    MalformedRecordError,
    StoreError,
    UnknownKeyError,
    UnreachableError,
)
from worldloop.logs import encode_position

SITES = """
[sites.local]
cities = ["oslo"]
store = "sites/local"
[sites.gcp]
cities = ["lima"]
store = "sites/gcp"
[sites.aws]
cities = ["tokyo"]
store = "sites/aws"
[sites.azure]
cities = []
store = "sites/azure"
"""


@pytest.fixture
def federation(tmp_path):
    path = tmp_path / "sites.toml"
    path.write_text(SITES)
    return Federation(sites_path=str(path), home=str(tmp_path))


@pytest.fixture
def store(federation):
    return federation.federated_store()


@pytest.fixture
def log(federation):
    return federation.federated_log()


@pytest.fixture
def cut_off(monkeypatch):
    """Lets the store of a site stop to answer."""

    def cut(site):
        for verb in ("get", "scan", "put", "create", "head"):
            call = getattr(SiteStore, verb)

            def guarded(self, *args, _call=call, **kwargs):
                if self.url.endswith(f"/{site}"):
                    raise UnreachableError(f"{self.url!r} does not answer.")
                return _call(self, *args, **kwargs)

            monkeypatch.setattr(SiteStore, verb, guarded)

    return cut


def test_a_citys_objects_lie_at_its_home_and_the_rest_at_the_coordinator(federation, store):
    for city in ("tokyo", "lima", "oslo"):
        store.put(layout.clips_key("w0001", city), city.encode())
    store.put(layout.dedup_key("w0001"), b"all")

    assert federation.store("aws").list() == [("clips/w0001/tokyo.parquet", 5)]
    assert federation.store("gcp").list() == [("clips/w0001/lima.parquet", 4)]
    assert [key for key, _ in federation.store("local").list()] == [
        "clips/w0001/oslo.parquet",
        "dedup/w0001.parquet",
    ]
    assert store.get(layout.clips_key("w0001", "lima")) == b"lima"
    assert store.local_path("dedup/w0001.parquet").read_bytes() == b"all"


def test_listings_are_merged_in_key_order_and_leave_out_strays(federation, store):
    for city in ("tokyo", "lima", "oslo"):
        store.put(layout.pack_key("w0001", city, "ab"), city.encode())
    federation.store("gcp").put(layout.pack_key("w0001", "tokyo", "ab"), b"a stray")

    keys = [layout.pack_key("w0001", city, "ab") for city in ("lima", "oslo", "tokyo")]
    assert [key for key, _ in store.list("packs")] == keys
    assert [found.key for found in store.scan("packs", after=keys[0])] == keys[1:]
    assert store.list("packs/w0001/tokyo") == [(keys[2], 5)]
    assert store.used_bytes() == 13


def test_only_sites_that_can_have_a_folder_are_asked(store, cut_off):
    store.put(layout.clips_key("w0001", "lima"), b"x")
    store.put(layout.plan_key("w0001"), b"{}")
    cut_off("aws")

    assert [key for key, _ in store.list("plans")] == ["plans/w0001.json"]
    assert [key for key, _ in store.list("clips/w0001/lima.parquet")] in (
        [],
        ["clips/w0001/lima.parquet"],
    )
    assert store.get(layout.clips_key("w0001", "lima")) == b"x"
    with pytest.raises(UnreachableError, match="The site 'aws' cannot be reached"):
        store.list("clips")
    with pytest.raises(UnreachableError, match="The site 'aws' cannot be reached"):
        store.get(layout.clips_key("w0001", "tokyo"))


def test_a_city_without_a_home_is_refused_by_name(store):
    with pytest.raises(UnknownKeyError, match="'paris'"):
        store.put(layout.clips_key("w0001", "paris"), b"x")


def test_one_site_alone_has_a_plain_store_and_a_plain_log(tmp_path):
    path = tmp_path / "sites.toml"
    path.write_text(
        '[sites.local]\ncities = ["*"]\nstore = "a"\n[sites.aws]\ncities = []\nstore = "b"\n'
    )
    alone = Federation(sites_path=str(path), home=str(tmp_path))

    assert type(alone.federated_store()) is SiteStore
    assert type(alone.federated_log()) is SiteLog


def test_no_verb_of_a_store_forgets_the_sites():
    verbs = {
        name
        for name, verb in vars(SiteStore).items()
        if inspect.isfunction(verb)
        and not name.startswith("_")
        and {"key", "prefix"} & set(inspect.signature(verb).parameters)
    }

    by_others = {"exists", "size", "modified_at", "list"}  # they ask `head` and `scan`
    assert {"get", "put", "scan", "within"} <= verbs
    assert verbs - by_others <= set(vars(FederatedStore))


def test_objects_of_several_sites_are_copied_and_removed_together(federation, store, tmp_path):
    keys = [layout.clips_key("w0001", city) for city in ("tokyo", "lima")]
    for key in keys:
        store.put(key, b"x")
    copy = SiteStore(url=str(tmp_path / "copy"))

    assert all(copy.copy_from(store, key) for key in keys)
    assert not store.copy_from(copy, keys[0])
    assert [found.key for page in store.pages("clips", page_size=1) for found in page] == keys[::-1]
    store.delete_many(keys)
    assert store.list("clips") == []
    assert store.copy_from(copy, keys[0])
    assert federation.store("aws").exists(keys[0])


def test_rows_go_home_by_their_city(federation, log):
    for city in ("tokyo", "lima", "oslo"):
        assert log.append("clips", rows.clips(range(2), city=city)) == 2
        log.append("duplicates", rows.dedup(range(2), city=city))
    log.append("superseded", rows.superseded(0, 1))

    assert set(federation.log("aws").read("clips")["city"]) == {"tokyo"}
    assert set(federation.log("gcp").read("duplicates")["city"]) == {"lima"}
    assert federation.log("local").read("superseded").height == 1
    read = log.read("clips")["city"].unique(maintain_order=True).to_list()
    assert read == ["oslo", "tokyo", "lima"]  # the coordinator, then aws and gcp
    assert log.num_batches("clips") == 3


def test_a_position_holds_one_of_each_site(federation, log):
    log.append("clips", rows.clips(range(1), city="tokyo"))
    position = log.position()
    log.append("clips", rows.clips(range(1), city="lima"))
    log.append("clips", rows.clips(range(1, 3), city="tokyo"))

    assert log.read("clips", at=position)["city"].to_list() == ["tokyo"]
    assert log.read("clips").height == 4
    with pytest.raises(MalformedRecordError, match="log position"):
        federation.log("aws").read("clips", at=position)


def test_a_release_from_before_the_sites_were_several_still_reads(federation, log):
    federation.log("local").append("clips", rows.clips(range(2), city="oslo"))
    position = federation.log("local").position()
    log.append("clips", rows.clips(range(1), city="tokyo"))

    assert position == encode_position({"private": {"clips": 1}, "shared": {}})
    assert log.read("clips", at=position)["city"].to_list() == ["oslo", "oslo"]


def test_rows_are_taken_back_where_they_are(federation, log):
    for city in ("tokyo", "lima"):
        log.append("clips", rows.clips(range(2), city=city))
    gone = [rows.ids(0, city=city)["recipe_id"] for city in ("tokyo", "lima")]

    assert log.retract("clips", gone[:1], reason="asked for") == 1
    assert federation.log("gcp").heads() == {"clips": 1}
    assert not set(gone[:1]) & set(log.read("clips")["recipe_id"])
    assert log.read("clips").height == 3


def test_a_site_that_does_not_answer_is_named_and_a_later_append_heals(log, cut_off, monkeypatch):
    both = [rows.clips(range(2), city=city) for city in ("tokyo", "lima")]
    import polars as pl

    cut_off("gcp")
    with pytest.raises(UnreachableError, match="The site 'gcp' cannot be reached"):
        log.append("clips", pl.concat(both))
    monkeypatch.undo()

    assert log.append("clips", pl.concat(both)) == 2  # those of the site that answers stand
    assert log.read("clips").height == 4


def test_numbers_of_batches_are_asked_of_one_site(log):
    with pytest.raises(ValueError, match=r"ask Federation.view\(site\).log"):
        log.heads()


def test_logs_of_buckets_are_mirrored_and_those_of_folders_are_not(tmp_path):
    path = tmp_path / "sites.toml"
    path.write_text(
        '[sites.local]\ncities = ["*"]\nstore = "a"\n[sites.aws]\ncities = []\nstore = "s3://b/c"\n'
    )
    federation = Federation(sites_path=str(path), home=str(tmp_path))

    assert federation.log("local").mirror == ""
    view = federation.view("aws")
    assert Path(view.log.mirror) == view.scratch / "mirror"
    assert Path(view.replicas["local"].mirror) == view.scratch / "mirror" / "replicas" / "local"


def test_a_pack_of_a_remote_site_is_copied_for_jobs_that_read_files(
    gcp_emulator, tmp_path, monkeypatch
):
    site, path = gcp_emulator.fresh_site(), tmp_path / "sites.toml"
    options = ", ".join(f'{k} = "{v}"' for k, v in site.options.items())
    secrets = ", ".join(f'{k} = "{v}"' for k, v in site.secrets.items())
    path.write_text(
        '[sites.local]\ncities = []\nstore = "local"\n[sites.gcp]\ncities = ["lima"]\n'
        f'store = "{site.url}"\noptions = {{ {options} }}\nsecrets = {{ {secrets} }}\n'
    )
    store = Federation(sites_path=str(path), home=str(tmp_path)).federated_store()
    first, second = (layout.pack_key("w0001", "lima", sha * 64) for sha in "ab")
    for key in (first, second):
        store.put(key, b"x" * 100)
    monkeypatch.setattr("resources.federated_store._MOST_COPIED_BYTES", 150)

    copy = store.local_path(first)
    assert copy.read_bytes() == store.get(first)
    assert store.local_path(second).stat().st_size == 100
    assert not copy.exists()  # only the newest copies stay
    with pytest.raises(StoreError, match="expected a store that is a folder"):
        store.local_path(layout.clips_key("w0001", "lima"))
