from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pytest

from worldloop.retention import orphans, retired_packs

NOW = datetime(2026, 5, 1, tzinfo=UTC)


class Listed(NamedTuple):
    key: str
    size_bytes: int = 10
    modified_at: datetime = NOW - timedelta(days=2)


PACKS = [Listed(f"packs/{wave}/{city}/x.tar") for wave in ("w1", "w2", "w3") for city in ("a", "b")]


def retired(used_bytes, *, released=("w1", "w2", "w3"), keep_waves=1):
    removals = retired_packs(
        PACKS, released=released, used_bytes=used_bytes, max_bytes=100, keep_waves=keep_waves
    )
    return [removal.key.split("/")[1] for removal in removals]


@pytest.mark.parametrize(
    ("used_bytes", "waves"), [(100, []), (101, ["w1"] * 2), (121, ["w1"] * 2 + ["w2"] * 2)]
)
def test_whole_waves_go_oldest_first_until_the_rest_fits(used_bytes, waves):
    assert retired(used_bytes) == waves


def test_the_newest_releases_and_unreleased_waves_stay_however_full_the_disk():
    assert retired(10_000) == ["w1", "w1", "w2", "w2"]
    assert retired(10_000, keep_waves=3) == []
    assert retired(10_000, keep_waves=5) == []
    assert retired(10_000, released=("w2",), keep_waves=0) == ["w2", "w2"]


def test_only_old_objects_that_nothing_names_are_orphans():
    listed = [Listed("a"), Listed("b"), Listed("c", modified_at=NOW - timedelta(hours=1))]
    found = orphans(listed, referenced={"a"}, now=NOW, keep=timedelta(hours=24), reason="why")

    assert [(removal.key, removal.reason) for removal in found] == [("b", "why")]
