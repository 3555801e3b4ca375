"""Old and new clips side by side: who is paired with whom, and what follows for a line."""

from dataclasses import replace

import pytest

from worldloop.federation.comparisons import (
    Line,
    ScoredClip,
    compare,
    due_in_line,
    pair_clips,
    quality,
)
from worldloop.seeds import stream

LINE = Line("tiny", ("", "r0001", "r0002"))


def clips(adapter, count=12, *, wave="w0001", place="tokyo/zoo", settings="tiny/a", **scores):
    """Clips of one wave and place that all score alike."""
    return [
        ScoredClip(wave, index, place, adapter, settings, {"accepted": 1.0, **scores})
        for index in range(count)
    ]


def drawn(adapter, count, *, wave, scale=1.0):
    """Clips whose sharpness and acceptance vary as real ones do."""
    source = stream("clips", adapter, wave)
    found = clips(adapter, count, wave=wave)
    sharp = (0.9 * scale * source.lognormal(0, 0.35, count)).clip(max=1.0)
    passed = (source.random(count) < 0.9).astype(float)
    return [
        replace(one, scores={"accepted": float(ok), "sharpness": float(value)})
        for one, ok, value in zip(found, passed, sharp, strict=True)
    ]


def test_a_promoted_checkpoint_whose_clips_are_worse_is_taken_back():
    worse = clips("r0001", sharpness=0.9) + clips("r0002", wave="w0002", sharpness=0.5)

    due = due_in_line(LINE, worse)

    assert (due.cause, due.round) == ("roll_back:r0002", "r0002")
    assert "sharpness fell by 0.4" in due.reason
    assert due.reason.endswith("back to r0001")


@pytest.mark.parametrize("sharpness", [0.9, 1.0, 0.81])
def test_one_that_is_as_good_better_or_hardly_worse_stays(sharpness):
    found = clips("r0001", sharpness=0.9) + clips("r0002", wave="w0002", sharpness=sharpness)

    due = due_in_line(LINE, found)

    assert due.cause == ""
    assert "nothing is shown to have fallen by more than 0.1" in due.reason
    assert "12 pairs, the next look at 24" in due.reason


def test_with_too_few_pairs_nothing_is_decided_and_it_says_how_many():
    few = clips("r0001", 11, sharpness=0.9) + clips("r0002", 20, wave="w0002", sharpness=0.1)

    due = due_in_line(LINE, few)

    assert due.cause == ""
    assert "11 of its clips have an older one of their place" in due.reason


@pytest.mark.parametrize("change", [{"place": "lima/zoo"}, {"settings": "tiny/b"}])
def test_clips_of_another_place_or_made_otherwise_are_not_compared(change):
    other = clips("r0001", sharpness=0.9, **change) + clips("r0002", wave="w0002", sharpness=0.1)

    assert compare(other, new="r0002", replaced=("r0001",)).num_pairs == 0


def test_no_clip_is_in_two_pairs_and_what_was_used_last_comes_first():
    old = clips("", 2, wave="w0005") + clips("r0001", 1) + clips("r0009", 5, wave="w0009")
    pairs = pair_clips(old + clips("r0002", 4, wave="w0010"), new="r0002", replaced=("", "r0001"))

    assert [one.adapter for one, _ in pairs] == ["r0001", "", ""]
    assert len({(one.wave, one.index) for one, _ in pairs}) == 3


def test_between_looks_further_clips_change_nothing():
    found = clips("r0001", 40, sharpness=0.9) + clips("r0002", 12, wave="w0002", sharpness=0.9)
    later = clips("r0002", 11, wave="w0003", sharpness=0.1)
    last = clips("r0002", 1, wave="w0004", sharpness=0.1)

    assert due_in_line(LINE, found + later).cause == ""
    assert due_in_line(LINE, found + later + last).cause == "roll_back:r0002"


def test_without_an_earlier_one_the_base_is_gone_back_to_and_that_is_said():
    worse = clips("", sharpness=0.9) + clips("r0001", wave="w0002", sharpness=0.1)

    due = due_in_line(Line("tiny", ("", "r0001")), worse)

    assert due.cause == "roll_back:r0001"
    assert "the base alone, as nothing was promoted before" in due.reason
    assert due_in_line(Line("tiny"), worse).cause == ""


def test_what_somebody_promotes_again_after_a_roll_back_is_left_to_them():
    worse = clips("r0001", sharpness=0.9) + clips("r0002", wave="w0002", sharpness=0.1)
    line = replace(LINE, rolled_back=frozenset({"r0002"}))

    assert due_in_line(line, worse).cause == ""
    assert "taken back and promoted again" in due_in_line(line, worse).reason


@pytest.mark.parametrize(("sharpness", "cause"), [(0.9, "promote:r0003"), (0.3, "withdraw:r0003")])
def test_a_shadow_is_promoted_or_withdrawn_by_its_clips(sharpness, cause):
    found = clips("r0002", sharpness=0.9) + clips("r0003", wave="w0002", sharpness=sharpness)

    assert due_in_line(replace(LINE, shadow="r0003"), found).cause == cause


def test_a_shadow_waits_and_both_are_spoken_of():
    due = due_in_line(replace(LINE, shadow="r0003"), clips("r0002", sharpness=0.9))

    assert due.cause == ""
    assert "r0002 is used" in due.reason
    assert "r0003 is tried: 0 of its clips" in due.reason


def test_the_promoted_one_goes_back_before_its_shadow_and_what_builds_on_it_is_withdrawn():
    found = (
        clips("r0001", sharpness=0.9)
        + clips("r0002", 24, wave="w0002", sharpness=0.1)
        + clips("r0003", wave="w0003", sharpness=0.2)
    )
    line = replace(LINE, shadow="r0003", shadow_base="r0002")
    assert due_in_line(line, found).cause == "roll_back:r0002"

    after = replace(line, promoted=("", "r0001"), rolled_back=frozenset({"r0002"}))
    due = due_in_line(after, found)
    assert due.cause == "withdraw:r0003"
    assert "goes on from r0002" in due.reason


def test_noise_that_is_sharper_than_footage_gains_nothing_by_it():
    noise = quality(
        accepted=True, distinct=True, kept={"sharpness": (9.0, 0.2), "motion": (8.0, 1.0)}
    )
    good = quality(
        accepted=True, distinct=True, kept={"sharpness": (0.2, 0.2), "motion": (1.0, 1.0)}
    )

    assert noise == good
    assert quality(accepted=False, distinct=None, kept={"motion": (None, 1.0)}) == {"accepted": 0.0}


def test_of_checkpoints_that_are_as_good_few_are_taken_back_and_of_bad_ones_all():
    def taken_back(number, scale):
        found = drawn("r0001", 96, wave=f"w{number:04d}")
        found += drawn("r0002", 96, wave=f"w{number + 500:04d}", scale=scale)
        pairs = pair_clips(found, new="r0002", replaced=("r0001",))
        looks = (compare([c for pair in pairs[:n] for c in pair], new="r0002", replaced=("r0001",)) for n in (12, 24))  # fmt: skip
        return any(one.verdict.roll_back for one in looks)

    assert sum(taken_back(number, 1.0) for number in range(60)) <= 4
    assert all(taken_back(number, 0.5) for number in range(10))
