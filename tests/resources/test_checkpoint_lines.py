"""Lines of checkpoints at work: which clips are read, and what no sequence of events may do."""

import pytest

from resources import checkpoint_lines as lines
from resources.checkpoint_registry import Decision
from tests.sensors.lines import LINE, film, publish_rounds
from worldloop.federation.comparisons import ScoredClip
from worldloop.seeds import stream


@pytest.fixture(autouse=True)
def nothing_remembered():
    lines._read.clear()


def read(house):
    return lines.scored_clips(house.store, house.resources["site_log"], LINE)


def test_clips_come_with_their_adapter_and_as_shares_of_their_sketches(house):
    film(house, "w0001", count=2)
    film(house, "w0002", "r0001", count=2, share=0.5, rejected=1)

    found = read(house)

    assert [one.adapter for one in found] == ["", "", "r0001", "r0001"]
    assert [one.scores["sharpness"] for one in found] == pytest.approx([1, 1, 0.5, 0.5])
    assert [one.scores["accepted"] for one in found] == [1, 1, 0, 1]
    assert {one.settings for one in found} == {found[0].settings}
    assert found[0].place == "tokyo/street"


def test_sketches_and_clips_of_another_line_are_not_among_them(house):
    film(house, "w0001", count=2)

    assert len(read(house)) == 2
    assert lines.scored_clips(house.store, house.resources["site_log"], "another") == []


def test_a_duplicate_counts_against_its_checkpoint(house):
    film(house, "w0001", count=2, duplicates=(1,))

    assert [one.scores["distinct"] for one in read(house)] == [1, 0]


def test_a_released_wave_is_read_once(house, monkeypatch):
    film(house, "w0001", count=2)
    first = read(house)
    monkeypatch.setattr(lines, "read_plan", lambda *args: 1 / 0)

    assert read(house) == first


def decision(event, key, main, at, shadow=""):
    return Decision(event, key, main, shadow, 0.5 if shadow else 0.0, f"why {key}", at)


def test_since_when_something_is_used_survives_what_was_decided_about_others():
    history = [
        decision("promoted", "r0001", "r0001", "2026-01-01"),
        decision("shadowed", "r0002", "r0001", "2026-01-02", "r0002"),
    ]

    table = lines.line_table({"tiny": history})

    assert (
        "| tiny | main | r0001 | 2026\u201101\u201101 | 50% | promoted r0001: why r0001 |" in table
    )
    assert (
        "| tiny | shadow | r0002 | 2026\u201101\u201102 | 50% | shadowed r0002: why r0002 |"
        in table
    )
    back = [*history, decision("rolled_back", "r0001", "", "2026-01-03")]
    assert "| tiny | main | the base alone | 2026\u201101\u201103 |" in lines.line_table(
        {"tiny": back}
    )


def _clips(source, adapters):
    """Waves of each adapter, good or bad by chance."""
    found = []
    for number, adapter in enumerate(adapters):
        sharp = float(source.choice([0.2, 0.9]))
        scores = {"accepted": 1.0, "sharpness": sharp}
        found += [
            ScoredClip(f"w{number:04d}", i, "tokyo/zoo", adapter, "s", scores) for i in range(14)
        ]
    return found


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_nothing_is_taken_back_twice_and_never_further_than_the_base(
    house, seed, monkeypatch
):
    source = stream("whatever happens", seed)
    keys = [f"r{number:04d}" for number in range(1, 6)]
    registry = publish_rounds(house, *keys)
    for key in keys:
        by_shadow = registry.main(LINE) and source.random() < 0.5
        if by_shadow:
            registry.try_as_shadow(LINE, key, share=0.5)
        else:
            registry.promote(LINE, key)
        clips = _clips(source, [*["", *keys][: len(registry.history(LINE)) + 1]])
        monkeypatch.setattr(lines, "scored_clips", lambda *args, clips=clips: clips)
        for _ in range(4):  # runs that come too often change nothing
            due = lines.due(house.store, house.resources["site_log"], registry, LINE)
            lines.carry_out(registry, LINE, due)
            lines.carry_out(registry, LINE, due)
    history = registry.history(LINE)
    back = [one.round for one in history if one.event == "rolled_back"]
    assert len(back) == len(set(back))
    assert {one.main for one in history} <= {"", *keys}
    assert registry.main(LINE) == history[-1].main
    used = [one.main for one in history]
    for before, one in zip(["", *used], history, strict=False):
        if one.event == "rolled_back":
            assert before == one.round
            assert one.main in {"", *used[: history.index(one)]}


def test_audit_rows_of_a_decision_have_one_id(house):
    registry = publish_rounds(house, "r0001")
    registry.promote(LINE, "r0001", reason="good")
    history = registry.history(LINE)
    one, two = (lines.audit_rows(LINE, history, site="local") for _ in range(2))
    log = house.resources["site_log"]

    assert one.equals(two)
    assert lines.untold(log, LINE, history, site="local") == history
    assert (log.append("audits", one), log.append("audits", two)) == (1, 0)
    assert lines.untold(log, LINE, history, site="local") == []
