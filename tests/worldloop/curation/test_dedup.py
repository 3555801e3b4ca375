import hashlib
import itertools

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from worldloop.curation import dedup
from worldloop.curation.dedup import CLIP_SCHEMA, Verdicts, decide, reconcile, with_superseded
from worldloop.errors import MalformedRecordError
from worldloop.records import DEDUP, SUPERSEDED
from worldloop.seeds import stream

CITIES = ("lima", "oslo", "tokyo")


def make_clips(
    num_clips: int, *, seed: int = 0, num_subjects: int = 5, width: int = 6
) -> pl.DataFrame:
    """Clips in shuffled order around few subjects, so that every kind of duplicate and chains occur."""
    rng = stream(seed, "clips")
    centres = rng.standard_normal((num_subjects, width))
    spread = rng.choice([0.0, 0.05, 0.15, 0.3], (num_clips, 1))
    subject = rng.integers(num_subjects, size=num_clips)
    vectors = centres[subject] + spread * rng.standard_normal((num_clips, width))
    scene = rng.integers(num_clips * 3, size=num_clips)
    rows = {
        "wave": [("w9", "w0010", "w0002")[i] for i in rng.integers(3, size=num_clips)],
        "index": rng.integers(4, size=num_clips),
        "city": [CITIES[i] for i in rng.integers(3, size=num_clips)],
        "institution": ["zoo"] * num_clips,
        "scene_id": [f"scene-{i}" for i in scene],
        "generator": ["procedural"] * num_clips,
        "tier": [("sketch", "draft")[i] for i in rng.choice(2, num_clips, p=[0.8, 0.2])],
        "recipe_id": [
            hashlib.sha256(f"{seed} {i}".encode()).hexdigest()[:8] for i in range(num_clips)
        ],
        "content_sha256": [hashlib.sha256(vector.tobytes()).hexdigest() for vector in vectors],
        "vector": vectors.astype(np.float32).tolist(),
    }
    return pl.DataFrame(rows, schema=CLIP_SCHEMA)


def expected(clips: pl.DataFrame, epsilon: float) -> dict[str, str | None]:
    """The definition itself, pair by pair."""
    rows = clips.rows(named=True)
    rows.sort(key=lambda c: (len(c["wave"]), c["wave"], c["index"], c["city"], c["recipe_id"]))

    def same(a, b):
        x, y = np.array(a["vector"], np.float64), np.array(b["vector"], np.float64)
        cosine = x @ y / np.sqrt((x @ x) * (y @ y))
        return a["tier"] == b["tier"] and (
            a["content_sha256"] == b["content_sha256"]
            or a["scene_id"] == b["scene_id"]
            or cosine >= 1 - epsilon
        )

    return {
        c["recipe_id"]: next((e["recipe_id"] for e in rows[:i] if same(c, e)), None)
        for i, c in enumerate(rows)
    }


class Log:
    """What has been written down, as an asset would keep it."""

    def __init__(self, epsilon: float):
        self.epsilon = epsilon
        self.clips = pl.DataFrame(schema=CLIP_SCHEMA)
        self.decisions, self.superseded = DEDUP.empty(), SUPERSEDED.empty()

    def known(self) -> pl.DataFrame:
        return self.clips.join(
            self.standing().select("wave", "city", "recipe_id", "duplicate_of"),
            on=["wave", "city", "recipe_id"],
        )

    def judge(self, batch: pl.DataFrame) -> Verdicts:
        return decide(batch, self.known(), model_id="m", epsilon=self.epsilon)

    def append(self, batch: pl.DataFrame, verdicts: Verdicts) -> None:
        self.clips = pl.concat([self.clips, batch.cast(dict(CLIP_SCHEMA))])
        self.decisions = pl.concat([self.decisions, verdicts.decisions])
        self.superseded = pl.concat([self.superseded, verdicts.superseded])

    def standing(self) -> pl.DataFrame:
        return with_superseded(self.decisions, self.superseded)


def at_once(clips: pl.DataFrame, epsilon: float) -> pl.DataFrame:
    log = Log(epsilon)
    log.append(clips, log.judge(clips))
    return log.standing()


seeds = st.integers(0, 10**6)
epsilons = st.sampled_from([0.0, 0.002, 0.02, 0.2])


@settings(max_examples=40, deadline=None)
@given(seed=seeds, epsilon=epsilons, num_clips=st.integers(1, 25))
def test_one_batch_follows_the_definition(seed, epsilon, num_clips):
    clips = make_clips(num_clips, seed=seed)
    standing = at_once(clips, epsilon)
    assert dict(standing.select("recipe_id", "duplicate_of").rows()) == expected(clips, epsilon)
    assert (standing["status"] == "unique").to_list() == standing[
        "duplicate_of"
    ].is_null().to_list()


@settings(max_examples=40, deadline=None)
@given(seed=seeds, epsilon=epsilons, cuts=st.lists(st.integers(0, 25), max_size=5))
def test_batches_in_any_order_end_in_the_same_decisions(seed, epsilon, cuts):
    clips, log = make_clips(25, seed=seed), Log(epsilon)
    edges = [0, *sorted(cuts), 25]
    for low, high in itertools.pairwise(edges):
        batch = clips[low:high]
        log.append(batch, log.judge(batch))
    assert_frame_equal(log.standing(), at_once(clips, epsilon))


@settings(max_examples=20, deadline=None)
@given(seed=seeds, epsilon=epsilons)
def test_batches_decided_side_by_side_agree_after_reconciling(seed, epsilon):
    clips, log = make_clips(24, seed=seed), Log(epsilon)
    batches = [clips[0:8], clips[8:16], clips[16:24]]
    verdicts = [log.judge(batch) for batch in batches]
    for batch, verdict in zip(batches, verdicts, strict=True):
        log.append(batch, verdict)
    log.superseded = pl.concat([log.superseded, reconcile(log.known(), epsilon=epsilon)])
    assert_frame_equal(log.standing(), at_once(clips, epsilon))
    assert reconcile(log.known(), epsilon=epsilon).is_empty()


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_deciding_a_batch_again_changes_nothing(seed):
    clips, log = make_clips(20, seed=seed), Log(0.02)
    late, early = clips[:10], clips[10:]
    for batch in (late, early):
        log.append(batch, log.judge(batch))
    again = log.judge(early)
    first = log.decisions.filter(pl.col("recipe_id").is_in(early["recipe_id"].implode()))
    assert_frame_equal(again.decisions, first)
    assert again.superseded.is_empty()


@pytest.mark.parametrize("block", [1, 7, 2048])
def test_block_sizes_change_no_bit(monkeypatch, block):
    clips = make_clips(120, seed=4, num_subjects=12)
    whole = at_once(clips, 0.02)
    monkeypatch.setattr(dedup, "_BLOCK", block)
    assert_frame_equal(at_once(clips, 0.02), whole)


def test_pairs_at_the_very_edge_are_decided_without_rounding(monkeypatch):
    clips = make_clips(40, seed=1, width=64, num_subjects=2)
    edge = at_once(clips, 0.2).drop_nulls("similarity")["similarity"].min()
    kept = []
    for block in (1, 3, 2048):
        monkeypatch.setattr(dedup, "_BLOCK", block)
        kept.append(at_once(clips, 1 - edge)["duplicate_of"].to_list())
    assert kept[0] == kept[1] == kept[2]


def test_kinds_say_why():
    clips = make_clips(4, seed=3).with_columns(
        wave=pl.lit("w0001"),
        index=pl.int_range(4),
        scene_id=pl.Series(["a", "b", "a", "c"]),
        content_sha256=pl.Series(["x", "x", "y", "z"]),
        tier=pl.lit("sketch"),
        vector=pl.Series([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [1.0, 0.001]]),
    )
    standing = at_once(clips, 0.01)
    assert standing["kind"].to_list() == [None, "content", "scene", "semantic"]
    assert standing["duplicate_of"].to_list() == [None, *clips["recipe_id"][[0, 0, 0]]]


def test_one_scene_by_two_generators_is_two_clips():
    clips = make_clips(2).with_columns(
        scene_id=pl.lit("same"),
        generator=pl.Series(["procedural", "cosmos"]),
        vector=pl.Series([[1.0, 0.0], [0.0, 1.0]]),
    )
    assert at_once(clips, 0.01)["status"].to_list() == ["unique", "unique"]


def test_a_scene_in_two_tiers_is_two_clips_however_alike_they_look():
    clips = make_clips(3).with_columns(
        wave=pl.lit("w0001"),
        index=pl.int_range(3),
        scene_id=pl.lit("same"),
        content_sha256=pl.lit("same"),
        tier=pl.Series(["sketch", "draft", "draft"]),
        vector=pl.Series([[1.0, 0.0]] * 3),
    )
    assert at_once(clips, 0.01)["status"].to_list() == ["unique", "unique", "duplicate"]


def test_a_recipe_planned_twice_is_kept_once():
    first = make_clips(1).with_columns(wave=pl.lit("w0001"))
    second, log = first.with_columns(wave=pl.lit("w0002")), Log(0.01)
    for batch in (second, first):
        log.append(batch, log.judge(batch))
    assert log.standing()["status"].to_list() == ["unique", "duplicate"]


@pytest.mark.parametrize(
    ("vector", "found"),
    [
        ([0.0] * 6, "only zeros"),
        ([float("nan")] + [1.0] * 5, "NaN or infinity"),
        ([1.0] * 5, "length 5"),
        (None, "length None"),
    ],
)
def test_a_bad_vector_is_one_clear_error(vector, found):
    clips = make_clips(3)
    broken = clips.with_columns(vector=pl.Series([*clips["vector"].to_list()[:2], vector]))
    broken = broken.with_columns(wave=pl.lit("w1"), index=pl.int_range(3))
    with pytest.raises(MalformedRecordError, match=f"{clips['recipe_id'][2]}: found '{found}'"):
        at_once(broken, 0.01)
