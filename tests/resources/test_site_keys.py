import logging
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.exceptions import InvalidSignature

from resources.site_keys import SiteKeys, append_key, public_key, public_keys
from resources.site_store import SiteStore
from worldloop import layout
from worldloop.errors import AccessError, MalformedRecordError, StoreError


@pytest.fixture
def store(tmp_path):
    return SiteStore(url=str(tmp_path / "coordinator"))


@pytest.fixture
def keys(tmp_path):
    return SiteKeys(tmp_path / "home")


def raw(key):
    return key.public_bytes_raw()


def test_a_private_key_is_made_once_and_for_its_owner_alone(keys):
    first = keys.private_key("aws")
    path = keys.folder / "aws.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(keys.folder.stat().st_mode) == 0o700
    assert keys.private_key("aws").private_bytes_raw() == first.private_bytes_raw()
    assert [file.name for file in keys.folder.iterdir()] == ["aws.key"]


def test_of_many_at_once_all_get_the_same_key(keys):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(keys.private_key, ["aws"] * 16))
    assert len({key.private_bytes_raw() for key in found}) == 1


def test_a_key_that_others_can_read_is_refused(keys):
    keys.private_key("aws")
    (keys.folder / "aws.key").chmod(0o644)
    with pytest.raises(AccessError, match="chmod 600"):
        keys.private_key("aws")


def test_a_damaged_key_is_refused_and_not_shown(keys):
    keys.private_key("aws")
    (keys.folder / "aws.key").write_text("deadbeef")
    with pytest.raises(MalformedRecordError, match="8 characters") as caught:
        keys.private_key("aws")
    assert "deadbeef" not in str(caught.value)


def test_a_key_of_a_secret_place_is_used_without_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLDLOOP_TEST_SITE_KEY", "07" * 32)
    keys = SiteKeys(tmp_path, places={"aws": "env:WORLDLOOP_TEST_SITE_KEY"})
    assert keys.private_key("aws").private_bytes_raw() == b"\x07" * 32
    assert not keys.folder.exists()
    monkeypatch.setenv("WORLDLOOP_TEST_SITE_KEY", "secret words")
    with pytest.raises(MalformedRecordError) as caught:
        keys.private_key("aws")
    assert "secret words" not in str(caught.value)


def test_the_first_public_key_stays_and_another_is_refused(keys, store, tmp_path):
    first = keys.publish(store, "aws")
    assert raw(keys.publish(store, "aws")) == raw(first)
    with pytest.raises(StoreError, match=r"another public key.*rotate it"):
        SiteKeys(tmp_path / "elsewhere").publish(store, "aws")
    assert raw(public_key(store, "aws", "r0007")) == raw(first)


def test_only_the_public_key_reaches_the_store_and_no_key_a_log(keys, store, caplog):
    caplog.set_level(logging.DEBUG)
    keys.publish(store, "aws")
    private = keys.private_key("aws").private_bytes_raw().hex()
    keys.rotate(store, "aws", from_round="r0003")
    secrets = [private, keys.private_key("aws").private_bytes_raw().hex()]
    stored = b"".join(store.get(key) for key, _ in store.list())
    assert [key for key, _ in store.list()] == ["federation/keys/aws.pub"]
    assert not any(secret.encode() in stored or secret in caplog.text for secret in secrets)


def test_after_a_rotation_older_rounds_are_verified_with_the_older_key(keys, store):
    old = keys.publish(store, "aws")
    new = keys.rotate(store, "aws", from_round="r0005")
    assert raw(public_key(store, "aws", "r0004")) == raw(old)
    assert raw(public_key(store, "aws", "r0005")) == raw(new) != raw(old)
    assert raw(keys.publish(store, "aws")) == raw(new)
    signature = keys.private_key("aws").sign(b"delta")
    public_key(store, "aws", "r0006").verify(signature, b"delta")
    with pytest.raises(InvalidSignature):
        public_key(store, "aws", "r0004").verify(signature, b"delta")


def test_a_rotation_that_was_killed_goes_on(keys, store, monkeypatch):
    keys.publish(store, "aws")
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        keys.rotate(store, "aws", from_round="r0005")
    monkeypatch.undo()
    new = keys.rotate(store, "aws", from_round="r0005")
    assert len(public_keys(store, "aws")) == 2
    assert raw(keys.private_key("aws").public_key()) == raw(new)


def test_a_key_that_the_old_one_did_not_sign_is_refused(keys, store, tmp_path):
    keys.publish(store, "aws")
    thief = SiteKeys(tmp_path / "thief").private_key("aws")
    with pytest.raises(StoreError, match="the old key signs the new one"):
        append_key(store, "aws", thief, thief.public_key(), from_round="r0002")
    keys.rotate(store, "aws", from_round="r0002")
    key = layout.public_key_key("aws")
    genuine = raw(keys.private_key("aws").public_key()).hex().encode()
    store.put(key, store.get(key).replace(genuine, raw(thief.public_key()).hex().encode()))
    with pytest.raises(MalformedRecordError, match="did not sign"):
        public_key(store, "aws", "r0002")


@pytest.mark.parametrize("from_round", ["r0000", "r0003", "soon"])
def test_a_rotation_goes_forward(keys, store, from_round):
    keys.publish(store, "aws")
    keys.rotate(store, "aws", from_round="r0003")
    with pytest.raises(MalformedRecordError, match="found"):
        keys.rotate(store, "aws", from_round=from_round)


def test_a_site_without_a_published_key_is_named(store):
    with pytest.raises(StoreError, match="'aws' has published no key"):
        public_key(store, "aws", "r0001")


@pytest.mark.parametrize("content", [b"", b"{}", b'{"keys":[],"site":"aws"}', b'{"keys":[{}]}'])
def test_a_damaged_file_of_public_keys_is_refused(store, content):
    store.put(layout.public_key_key("aws"), content)
    with pytest.raises(MalformedRecordError, match="public keys of site 'aws'"):
        public_key(store, "aws", "r0001")


def test_a_rounds_secret_is_kept_until_it_is_forgotten(keys):
    first = keys.round_secret("aws", "r0001")
    assert keys.round_secret("aws", "r0001") == first != keys.round_secret("aws", "r0002")
    keys.forget_round_secret("aws", "r0001")
    keys.forget_round_secret("aws", "r0001")
    assert keys.round_secret("aws", "r0001") != first
