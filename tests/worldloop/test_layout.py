import inspect

import pytest

from worldloop import layout


@pytest.mark.parametrize("part", ["", ".", "..", "a/b", "a\\b", ".hidden", "a#1", "a*", "a\0"])
def test_no_part_of_a_key_can_leave_its_folder(part):
    with pytest.raises(ValueError, match="cannot be part of a key"):
        layout.clips_key("w0001", part)
    with pytest.raises(ValueError, match="cannot be part of a key"):
        layout.plan_key(part)


def test_every_table_of_a_shard_has_a_key_of_its_own():
    makers = (
        layout.prompts_key,
        layout.clips_key,
        layout.failures_key,
        layout.receipts_key,
        layout.signals_key,
        layout.vectors_key,
    )
    keys = [make("w0001", "tokyo") for make in makers]
    keys.append(layout.receipts_key("w0001", "tokyo", "embed"))
    keys.append(layout.failures_key("w0001", "tokyo", "embed"))

    assert len(set(keys)) == len(keys)
    assert all("/w0001/tokyo" in key for key in keys)


def test_batches_sort_by_their_numbers():
    keys = [layout.batch_key("shared", "lineage", seq, "ff") for seq in (2, 10, 999, 1000)]

    assert sorted(keys) == keys


CITY_KEYS = {
    name: make
    for name, make in vars(layout).items()
    if name.endswith("_key") and "city" in inspect.signature(make).parameters
}


@pytest.mark.parametrize("make", CITY_KEYS.values(), ids=CITY_KEYS)
def test_the_key_of_a_citys_object_tells_its_city(make):
    known = {"wave": "w0001", "city": "new_york", "sha256": "ab12", "step": "embed"}
    key = make(**{name: known[name] for name in inspect.signature(make).parameters})

    assert layout.city_of(key) == "new_york"
    assert layout.may_hold_cities(key.split("/")[0])
    assert layout.may_hold_cities("")


@pytest.mark.parametrize(
    "key",
    [
        layout.plan_key("w0001"),
        layout.dedup_key("w0001"),
        layout.superseded_key("w0001"),
        layout.release_key("w0001"),
        layout.manifest_key("w0001"),
        layout.redactions_key("w0001"),
        layout.batch_key("private", "clips", 1, "ab"),
        layout.claim_key("private", "clips", 1),
        layout.checkpoint_key("private", "clips", 1),
        layout.purge_key("private", "clips", "ab"),
        layout.lease_key("projection-lance", 1),
        layout.projection_key("lance"),
        "clips/w0001",
        "packs",
        "",
    ],
)
def test_other_keys_belong_to_no_city(key):
    assert layout.city_of(key) is None


def test_what_was_erased_of_a_pack_is_told_beside_it_at_the_same_site():
    key = layout.erased_key(layout.pack_key("w0001", "tokyo", "ab12"))

    assert layout.city_of(key) == "tokyo"


def test_purge_marks_sort_behind_every_claim():
    assert layout.purge_key("private", "clips", "ab") > layout.claim_key(
        "private", "clips", 10**12 - 1
    )
