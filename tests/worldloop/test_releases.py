import polars as pl
import pytest

from tests import rows
from worldloop.errors import MalformedRecordError
from worldloop.records import MANIFEST, RELEASE_CLIPS, RELEASES
from worldloop.releases import compose_release, merkle_root, read_release


def compose(tables=None, **changes):
    tables = tables or rows.wave_tables(range(6), rejected=(1,), duplicates=(2,))
    asked = {
        "clips": tables["clips"],
        "signals": tables["signals"],
        "dedup": tables["dedup"],
        "captions": tables["prompts"],
        "failures": tables["failures"],
        "superseded": tables["superseded"],
        "wave": "w0001",
        "site": "local",
        "position": "{}",
        "atlas_hash": "a",
    }
    return compose_release(**{**asked, **changes})


def test_a_release_holds_accepted_clips_that_repeat_no_other_in_key_order():
    release = compose()

    assert release.manifest["index"].to_list() == [0, 3, 4, 5]
    assert MANIFEST.conform(release.manifest).equals(release.manifest)
    assert release.record["num_clips"] == 4
    assert release.record["duration_s"] == 8.0
    assert release.record["num_clips_by_place"]["tokyo/street"] == 2


def test_one_ranged_read_brings_a_whole_clip():
    first = compose().manifest.row(0, named=True)

    assert (first["offset"], first["size_bytes"]) == (512, 1536 + rows.RGB_BYTES - 512)


def test_every_reject_has_its_reason():
    tables = rows.wave_tables(range(6), rejected=(1, 2), duplicates=(2, 3))
    failures = pl.concat([rows.failures(range(8, 9)), rows.failures(range(1))])  # 0 was made later
    record = compose(tables, failures=failures).record

    assert record["num_rejected"] == 4
    assert record["rejects"] == [
        {"stage": "signals", "reason": "too dark", "num_clips": 2},
        {"stage": "build", "reason": "nowhere to stand", "num_clips": 1},
        {"stage": "dedup", "reason": "duplicate: semantic", "num_clips": 1},
    ]


def test_the_root_hash_does_not_know_packs_sites_positions_or_order():
    tables = rows.wave_tables(range(6), rejected=(1,), duplicates=(2,))
    moved = {
        **tables,
        "clips": tables["clips"].reverse().with_columns(pack_key=pl.lit("packs/elsewhere.tar")),
        "signals": tables["signals"].sample(fraction=1, shuffle=True, seed=1),
    }

    release = compose(moved, site="aws", position='{"private":{"clips":9}}')
    assert release.root_hash == compose().root_hash
    assert release.manifest["recipe_id"].equals(compose().manifest["recipe_id"])


@pytest.mark.parametrize(
    "change",
    [
        {"clips": rows.clips(range(6)).with_columns(content_sha256=pl.lit("f" * 64))},
        {"captions": rows.prompts(range(6)).with_columns(caption=pl.lit("Another caption"))},
        {"dedup": rows.dedup(range(6), duplicates=(2, 3))},
        {"signals": rows.signals(range(6), rejected=(1, 5))},
    ],
)
def test_the_root_hash_knows_content_and_choice(change):
    assert compose(**change).root_hash != compose().root_hash


def test_a_clip_that_a_late_arrival_supersedes_is_left_out():
    release = compose(superseded=rows.superseded(5, 0))

    assert release.manifest["index"].to_list() == [0, 3, 4]


def test_a_wave_of_rejects_has_an_empty_release():
    release = compose(rows.wave_tables(range(2), rejected=(0, 1)))

    assert (release.manifest.height, release.record["duration_s"]) == (0, 0.0)
    assert release.root_hash == merkle_root([])


@pytest.mark.parametrize(
    ("table", "reason"), [("signals", "not measured"), ("dedup", "not compared")]
)
def test_a_clip_that_was_not_looked_at_is_left_out_and_counted(table, reason):
    whole = {"signals": rows.signals(range(6)), "dedup": rows.dedup(range(6))}

    release = compose(**{table: whole[table].head(5)})

    assert 5 not in release.manifest["index"]
    assert {"stage": "incomplete", "reason": reason, "num_clips": 1} in release.record["rejects"]


def test_a_clip_without_a_caption_is_an_error():
    with pytest.raises(MalformedRecordError, match="1 clips without captions"):
        compose(captions=rows.prompts(range(6)).head(5))


def test_a_clip_that_cannot_be_decoded_is_rejected_without_having_been_compared():
    release = compose(signals=rows.signals(range(6), rejected=(5,)), dedup=rows.dedup(range(5)))

    assert release.manifest["index"].to_list() == [0, 1, 2, 3, 4]
    assert release.record["num_rejected"] == 1


def generated(**how):
    """A wave whose first two scenes a world model has made too."""
    tables = rows.wave_tables(range(3))
    both = {"tables": tables, "generations": rows.generations(range(2), **how)}
    ids = [rows.generated_id(i) for i in range(2)]
    for name in ("signals", "dedup", "prompts"):
        twins = tables[name].head(2).with_columns(recipe_id=pl.Series(ids))
        tables[name] = pl.concat([tables[name], twins])
    tables["clips"] = pl.concat([tables["clips"], rows.generated_clips(range(2))])
    return both


def test_a_guarded_clip_of_a_world_model_is_released_beside_its_sketch():
    release = compose(**generated())

    assert release.manifest["index"].to_list() == [0, 0, 1, 1, 2]


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"guardrail": "unguarded"}, "not guarded: unguarded"),
        ({"guardrail": "text:blocklist"}, "not guarded: text:blocklist"),
        ({"tiny": True}, "made by a model with random weights"),
    ],
)
def test_unguarded_and_tiny_clips_stay_out_unless_the_plan_names_them(how, reason):
    release = compose(**generated(**how))

    assert release.manifest["index"].to_list() == [0, 1, 2]
    assert release.record["rejects"] == [{"stage": "guardrail", "reason": reason, "num_clips": 2}]
    allowed = compose(**generated(**how), allow_unguarded=True)
    assert allowed.manifest.height == 5


def test_what_a_guard_stopped_is_counted():
    record = compose(rows.wave_tables(range(3)), blocked=rows.blocked(range(2))).record

    assert record["rejects"] == [
        {"stage": "guardrail", "reason": "blocked by blocklist: violence", "num_clips": 2}
    ]


def test_the_shared_log_gets_the_release_and_its_clips():
    release = compose()

    assert RELEASES.conform(release.log_row())["root_hash"].to_list() == [release.root_hash]
    clips = RELEASE_CLIPS.conform(release.log_clips())
    assert clips["recipe_id"].equals(release.manifest["recipe_id"])


def test_records_of_other_versions_are_refused():
    record = compose().record

    assert read_release(record) == record
    with pytest.raises(MalformedRecordError, match="version 1 to 1"):
        read_release({**record, "version": 2})
    with pytest.raises(MalformedRecordError, match="root_hash"):
        read_release({"version": 1})


def test_a_merkle_root_depends_on_every_leaf_and_its_place():
    leaves = [bytes([i]) for i in range(7)]
    roots = {merkle_root(leaves[:n]) for n in range(8)}

    assert len(roots) == 8
    assert merkle_root(leaves[::-1]) != merkle_root(leaves)
    assert merkle_root([b"a", b"b", b"b"]) != merkle_root([b"a", b"b"])
