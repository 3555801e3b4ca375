import pytest

from worldloop.cosmos.profiles import PROFILES, SpeedProfile, profile
from worldloop.errors import MalformedRecordError, UnknownKeyError


def passes(name, num_steps):
    chosen = profile(name)
    steps = [step for step in range(num_steps) if chosen.computed(step, num_steps)]
    return len(steps) + sum(chosen.guided(step, num_steps) for step in steps)


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_a_profile_comes_back_from_its_record(name):
    assert SpeedProfile.from_record(profile(name).to_record()) == profile(name)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("exact", 70),
        ("sparse", 70),
        ("thrifty", 27),
        ("lean_fp8_attention", 21),
        ("cached", 16),
    ],
)
def test_a_profile_runs_so_many_of_seventy_passes(name, count):
    assert passes(name, 35) == count


def test_the_first_and_last_steps_of_a_sparse_run_are_dense():
    chosen = profile("sparse")
    dense = [step for step in range(35) if chosen.dense(step, 35)]
    assert dense == [*range(26), 34]


def test_the_first_step_is_always_computed():
    assert SpeedProfile("every", cache_every=4).computed(0, 8)


def test_a_student_runs_four_steps_without_guidance():
    assert profile("distilled").num_steps == 4
    assert not any(profile("distilled").guided(step, 4) for step in range(4))


@pytest.mark.parametrize(
    "wrong",
    [
        {"density": 0.0},
        {"guidance_from": 0.6, "guidance_until": 0.5},
        {"cache_every": 0},
        {"cache_order": 2},
    ],
)
def test_what_cannot_be_computed_is_refused(wrong):
    with pytest.raises(MalformedRecordError):
        SpeedProfile("wrong", **wrong)


def test_unknown_fields_and_names_are_refused():
    with pytest.raises(MalformedRecordError):
        SpeedProfile.from_record({"name": "x", "turbo": True})
    with pytest.raises(UnknownKeyError, match="Did you mean 'sparse'"):
        profile("sparce")
