from datetime import UTC, datetime

import pytest

from tests import rows
from worldloop.layout import batch_key, checkpoint_key, claim_key
from worldloop.reconciliation import (
    Finding,
    Number,
    Seen,
    all_numbers,
    contradictions,
    due_checkpoints,
    is_due,
    is_suspect,
    number_findings,
    pack_findings,
    pack_sizes,
    read_listing,
    reconciliation_rows,
    rightful,
    row_finding,
)
from worldloop.records import RECONCILIATIONS

A, B = "a" * 64, "b" * 64
ONE = Number("shared", "lineage", 1)
NOW = datetime(2026, 5, 14, tzinfo=UTC)


def listing(*shas, claims=None, size=10, checkpoints=()):
    """The first numbers of one kind, each with its batch; all claimed unless told otherwise."""
    claimed = range(1, len(shas) + 1) if claims is None else claims
    keys = [(batch_key("shared", "lineage", n, sha), size) for n, sha in enumerate(shas, 1) if sha]
    keys += [(claim_key("shared", "lineage", n), 64) for n in claimed]
    keys += [(checkpoint_key("shared", "lineage", n), 99) for n in checkpoints]
    return read_listing(keys)


def seen(claim, **batches):
    return Seen(claim if claim is None else claim.encode(), batches)


def test_keys_are_read_as_the_layout_makes_them():
    found = listing(A, B, checkpoints=[2])
    two = ONE._replace(seq=2)

    assert found.batches == {ONE: {A: 10}, two: {B: 10}}
    assert set(found.claims) == {ONE, two}
    assert set(found.checkpoints) == {two}
    assert ONE.batch_key(A) == batch_key("shared", "lineage", 1, A)


def test_other_keys_are_left_out():
    keys = ["packs/w0001/a.tar", "logs/shared/lineage/claims/purged-1", "logs/odd/lineage/x"]
    assert read_listing((key, 1) for key in keys).heads() == {}


def test_retractions_of_both_logs_have_names_of_their_own():
    assert Number("private", "retractions", 1).name == "private/retractions"
    assert ONE.name == "lineage"


def test_numbers_come_from_every_place_and_from_positions():
    places = {"home": listing(A), "east": listing(A, B)}
    assert [n.seq for n in all_numbers(places)] == [1, 2]
    assert [n.seq for n in all_numbers(places, [{"shared": {"lineage": 4}}])] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "other",
    [listing("", claims=[1]), listing(A, claims=[]), listing(A, size=9), listing(B)],
    ids=["no batch", "no claim", "another size", "another batch"],
)
def test_a_difference_between_listings_is_suspect(other):
    assert not is_suspect(ONE, [listing(A), listing(A)])
    assert is_suspect(ONE, [listing(A), other])


def test_a_copy_contradicts_its_source_if_it_is_ahead_or_differs():
    assert contradictions(listing(A, B), listing(A)) == {}
    assert list(contradictions(listing(A), listing(A, B))) == [ONE._replace(seq=2)]
    assert list(contradictions(listing(A), listing(B))) == [ONE]


@pytest.mark.parametrize(
    ("places", "right"),
    [
        ({"home": seen(A, **{A: True})}, A),
        ({"home": seen(B, **{B: True}), "east": seen(A, **{A: True})}, B),
        ({"home": seen(None), "east": seen(A, **{A: True})}, A),
        ({"home": seen("x" + A[1:], **{A: True, B: True})}, A),
        ({"home": seen(A[:20], **{A: True, B: True})}, A),
        ({"home": seen("", **{A: True})}, A),
        ({"home": seen(A)}, A),
        ({"home": seen(A, **{B: True})}, A),
        ({"home": seen(None, **{A: True})}, A),
        ({"home": seen(None, **{A: True, B: True})}, None),
        ({"home": seen(None)}, None),
    ],
    ids=[
        "all is well",
        "home decides",
        "a copy knows",
        "a flipped claim",
        "a cut claim",
        "an empty claim",
        "a lost batch",
        "a lost batch beside a leftover",
        "a lost claim",
        "nothing tells",
        "nothing is left",
    ],
)
def test_whose_a_number_is(places, right):
    assert rightful(places, home="home") == right


def test_a_batch_is_found_before_its_claim_and_home_before_its_copies():
    places = {"home": seen(None), "east": seen(A, **{A: False}), "west": seen(A, **{A: True})}
    found = number_findings(ONE, places, origin="home")

    assert [(f.site, f.part, f.what) for f in found] == [
        ("home", "batch", "missing"),
        ("home", "claim", "missing"),
        ("east", "batch", "damaged"),
    ]
    assert found[0].key == ONE.batch_key(A)


def test_a_claim_of_another_batch_differs_and_is_not_damage():
    places = {"home": seen(A, **{A: True}), "east": seen(B, **{B: True})}
    (finding,) = number_findings(ONE, places, origin="home")
    assert (finding.site, finding.what, finding.found) == ("east", "differs", B)


def test_a_checkpoint_is_due_wherever_a_stretch_is_without_one():
    every_two = due_checkpoints(listing(*[A] * 7, checkpoints=[2, 5]), every=2)
    assert {n.seq for n in every_two} == {4, 7}
    assert due_checkpoints(listing(A), every=2) == set()


def test_every_key_is_due_in_exactly_one_turn_of_a_round():
    for key in ("a", "b", "c"):
        assert sum(is_due(key, share=0.2, turn=turn) for turn in range(5)) == 1
    assert is_due("a", share=1.0, turn=3)
    assert not is_due("a", share=0.0, turn=3)


def test_packs_that_rows_name_are_missing_or_have_another_size():
    clips = rows.clips(range(2))
    key = clips["pack_key"][0]
    size = pack_sizes(clips)[key]
    assert size % 512 == 0

    assert pack_findings(clips, {key: size}, site="home") == []
    for listed, what in (({}, "missing"), ({key: size - 512}, "damaged")):
        (finding,) = pack_findings(clips, listed, site="home")
        assert (finding.key, finding.what) == (key, what)
    assert pack_findings(clips, {key: size}, site="home", suspects=[key])[0].what == "damaged"


def test_rows_that_a_projection_lacks_are_counted():
    where = {"site": "home", "projection": "lance", "of_kind": "vectors"}
    assert row_finding(["a", "b"], ["b", "a", "c"], **where) is None
    finding = row_finding(["a", "b", "c"], ["b"], **where)
    assert (finding.num_things, finding.key) == (2, "vectors: a, c")


def test_findings_are_counted_by_place_origin_and_kind():
    finding = Finding("east", "home", "lineage", "claim", "missing", "key", "this", "nothing")
    found = [finding, finding.healed("put back")]
    expected = {("east", "home", "lineage"): 8, ("home", "home", "packs"): 3}

    table = RECONCILIATIONS.conform(reconciliation_rows(found, expected, measured_at=NOW))
    counts = ["num_expected", "num_missing", "num_repaired"]
    assert table.select("site", *counts).rows() == [("east", 8, 2, 1), ("home", 3, 0, 0)]
