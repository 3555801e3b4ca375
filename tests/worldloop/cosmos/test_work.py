from dataclasses import replace

import pytest

from worldloop.cosmos.families import ClipShape
from worldloop.cosmos.models import model
from worldloop.cosmos.profiles import PROFILES, SpeedProfile
from worldloop.cosmos.work import work_share

LARGE = model("Cosmos-1.0-Diffusion-7B-Text2World")
SHAPE = ClipShape(121, 1280, 704, 24)


def share(profile: SpeedProfile) -> float:
    return work_share(profile, LARGE, SHAPE)


def test_a_profile_that_leaves_nothing_out_does_all_the_work():
    assert share(PROFILES["exact"]) == share(PROFILES["fast"]) == 1.0


def test_passes_and_density_are_counted_step_by_step():
    half = SpeedProfile("a", cache_every=2)
    assert share(half) == pytest.approx(18 / 35)
    assert share(SpeedProfile("a", guidance_until=0.0)) == pytest.approx(0.5)
    sparse, later = PROFILES["sparse"], replace(PROFILES["sparse"], dense_first_steps=30)
    assert share(sparse) < share(later) < 1.0


def test_more_savings_leave_less_work():
    shares = [share(PROFILES[name]) for name in ("fast", "sparse", "thrifty", "cached")]
    assert shares == sorted(shares, reverse=True)
    assert share(PROFILES["distilled"]) == pytest.approx(4 / 70)
