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
