"""A cloud's store is looked over before this process writes its first byte into it."""

import pytest

from resources import guarded_store
from resources.federation import Federation
from resources.guarded_store import GuardedStore, forget_admissions
from tests.emulators.faults import Faults, faulty
from worldloop.errors import AccessError, StoreError


@pytest.fixture(autouse=True)
def nobody_admitted():
    forget_admissions()
    yield
    forget_admissions()


def federation_at(site, folder, **how):
    lines = [f'{name} = "{value}"' for name, value in site.options.items()]
    places = [f'{name} = "{value}"' for name, value in site.secrets.items()]
    (folder / "sites.toml").write_text(
        '[sites.local]\ncities = ["*"]\nstore = "site"\n'
        f'[sites.aws]\ncities = []\nstore = "{site.url}"\n'
        f"options = {{ {', '.join(lines)} }}\nsecrets = {{ {', '.join(places)} }}\n"
    )
    return Federation(sites_path=str(folder / "sites.toml"), home=str(folder), **how)


@pytest.fixture
def looks(monkeypatch):
    """Every time that somebody asked whether a store is public."""
    asked = []
    ask = guarded_store.refuse_public
    monkeypatch.setattr(
        guarded_store, "refuse_public", lambda name, *how: (asked.append(name), ask(name, *how))[1]
    )
    return asked


def test_a_store_is_asked_once_whatever_is_written(aws_emulator, tmp_path, looks):
    store = federation_at(aws_emulator.fresh_site(), tmp_path).store("aws")
    assert store.list() == []
    assert looks == []

    store.put("plans/a.json", b"1")
    assert store.within("replicas/local").create("logs/b", b"2")
    federation_at(aws_emulator, tmp_path)

    assert looks == ["aws"]
    assert [key for key, _ in store.list()] == ["plans/a.json", "replicas/local/logs/b"]


def test_nothing_is_written_where_everybody_may_read(aws_emulator, tmp_path):
    import boto3

    site = aws_emulator.fresh_site()
    key = {"aws_access_key_id": "emulated", "aws_secret_access_key": "emulated"}
    client = boto3.client("s3", endpoint_url=site.endpoint, region_name="us-east-1", **key)
    client.delete_public_access_block(Bucket=site.bucket)
    client.close()
    store = federation_at(site, tmp_path).store("aws")

    for write in (store.put, store.create):
        with pytest.raises(AccessError, match="put-public-access-block"):
            write("plans/a.json", b"1")
    assert store.list() == []


def test_a_store_that_ignores_preconditions_is_refused(aws_emulator, tmp_path):
    with faulty(aws_emulator.fresh_site(), Faults(ignores_preconditions=True)) as proxy:
        store = federation_at(proxy.site, tmp_path).store("aws")
        with pytest.raises(StoreError, match="honours preconditions"):
            store.put("plans/a.json", b"1")
        assert store.list() == []


def test_folders_and_readers_are_not_asked(tmp_path, aws_emulator, looks):
    site = aws_emulator.fresh_site()
    federation_at(site, tmp_path).store("local").put("plans/a.json", b"1")

    reader = federation_at(site, tmp_path, read_only=True).store("aws")

    assert not isinstance(reader, GuardedStore)
    assert looks == []
