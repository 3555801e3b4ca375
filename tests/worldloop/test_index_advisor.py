import pytest

from worldloop.index_advisor import (
    Measured,
    Targets,
    VectorIndex,
    can_be_asked_again,
    decide,
    next_kind,
    scalar_columns,
    settings,
    should_try,
    with_filter,
    without_words,
)

TARGETS = Targets(recall=0.98, p95_ms=50.0)
EXACT = VectorIndex()
RQ, RQ_WIDER = settings("ivf_rq")[:2]
PQ = settings("ivf_pq")[0]


def measured(index, recall=1.0, p95_ms=5.0, num_rows=100_000):
    return Measured(index, recall, p95_ms / 2, p95_ms, 60, True, num_rows)


def test_no_index_stays_while_comparing_everything_is_quick():
    present = measured(EXACT, p95_ms=8.0)
    decision = decide(present, [], targets=TARGETS)
    assert (decision.index, decision.changes) == (EXACT, False)
    assert "meets the targets" in decision.reason


def test_the_cheapest_that_meets_both_targets_wins():
    slow = measured(EXACT, p95_ms=900.0)
    tried = [measured(PQ, 0.99), measured(RQ, 0.95), measured(RQ_WIDER, 0.985, p95_ms=20)]
    decision = decide(slow, tried, targets=TARGETS)
    assert (decision.index, decision.changes) == (RQ_WIDER, True)


def test_the_order_in_which_candidates_were_tried_does_not_matter():
    slow = measured(EXACT, p95_ms=900.0)
    tried = [measured(PQ, 0.99), measured(RQ, 0.99)]
    assert decide(slow, tried, targets=TARGETS) == decide(slow, tried[::-1], targets=TARGETS)


def test_kinds_are_tried_from_cheap_to_dear_until_one_does():
    slow = measured(EXACT, p95_ms=900.0)
    assert decide(slow, [], targets=TARGETS) is None
    assert next_kind(slow, []) == "ivf_rq"
    assert decide(slow, [measured(RQ, 0.7)], targets=TARGETS) is None
    assert next_kind(slow, [measured(RQ, 0.7)]) == "ivf_pq"


def test_a_near_miss_of_what_stands_changes_nothing():
    present = measured(RQ, recall=0.965, p95_ms=50.9)
    assert not should_try(present, tried_rows=0, targets=TARGETS)
    assert decide(present, [measured(PQ, 0.999)], targets=TARGETS).changes is False


def test_latency_that_swings_around_the_target_does_not_flap():
    present, changes = measured(RQ, 0.99, p95_ms=49.0), 0
    for p95_ms in (49.0, 50.8, 49.5, 50.9, 48.0):
        decision = decide(measured(RQ, 0.99, p95_ms), [measured(PQ, 0.99)], targets=TARGETS)
        changes += decision.changes
    assert (changes, present.meets(TARGETS)) == (0, True)


def test_when_nothing_does_the_closest_stays_or_comes():
    slow = measured(EXACT, p95_ms=900.0)
    tried = [measured(RQ, 0.9, p95_ms=20), measured(PQ, 0.8, p95_ms=10)]
    decision = decide(slow, tried, targets=TARGETS)
    assert (decision.index, decision.changes) == (RQ, True)
    assert "nothing meets the targets" in decision.reason

    again = decide(tried[0], [slow, tried[1], measured(RQ_WIDER, 0.91)], targets=TARGETS)
    assert (again.index, again.changes) == (RQ, False)


@pytest.mark.parametrize(
    ("tried_rows", "expected"), [(0, True), (100_000, False), (70_000, False), (60_000, True)]
)
def test_after_a_vain_search_nothing_is_built_before_the_table_grew(tried_rows, expected):
    late = measured(RQ, 0.9)
    assert should_try(late, tried_rows=tried_rows, targets=TARGETS) is expected


def test_columns_that_people_filter_by_get_an_index():
    asked = {"city = 'tokyo'": 98, "tier = 'hero' AND city = 'season'": 3, "weather = 'x'": 1}
    known = ["city", "tier", "season", "weather", "wave"]
    assert scalar_columns(asked, known=known, always=["wave"]) == ["city", "tier", "wave"]
    assert scalar_columns({}, known=known, always=["wave"]) == ["wave"]


def test_words_about_captions_are_not_kept():
    kept = without_words("city = 'tokyo' AND lower(Caption) LIKE '%o''hara street%'")
    assert kept == "city = '?' AND lower(Caption) LIKE '?'"
    assert not can_be_asked_again(kept)
    assert can_be_asked_again(without_words("city = 'lima' AND tier = 'hero'"))


def test_a_narrow_filter_has_more_rows_compared_exactly():
    asked = VectorIndex("ivf_rq", 32, 40)
    refines = [
        with_filter(asked, num_matching=num, num_rows=100_000).refine
        for num in (90_000, 10_001, 10_000, 1_001)
    ]

    assert refines == [40, 40, 60, 60]
    assert with_filter(asked, num_matching=1_000, num_rows=100_000) == VectorIndex()
