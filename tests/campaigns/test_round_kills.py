"""A few cases of `round_kills` in CI; docs/log.md has all of them."""

from collections.abc import Iterator

import numpy as np
import pytest

from tests.campaigns import round_kills
from tests.campaigns.round_ground import ground, prepare

SEED = 5


@pytest.fixture(scope="module")
def campaign() -> Iterator[round_kills.Campaign]:
    prepare()
    with ground() as made:
        yield round_kills.Campaign(made)


def drawn(cases, number=1):
    rng = np.random.default_rng([SEED, len(cases)])
    return [cases[i] for i in rng.choice(len(cases), number, replace=False)]


@pytest.mark.campaign
@pytest.mark.parametrize(
    "kill",
    [*drawn(round_kills.NEVER_SENT), *drawn(round_kills.HEALED), *drawn(round_kills.SCORING)],
    ids=str,
)
def test_a_killed_site_costs_nothing_beyond_the_deadline(campaign, kill):
    case = campaign.site(kill)
    assert case.problems == (), case


@pytest.mark.campaign
@pytest.mark.parametrize("job", round_kills.COORDINATOR_JOBS)
def test_a_killed_coordinator_leaves_what_an_undisturbed_one_leaves(campaign, job):
    moments = [m for m in campaign.undisturbed(job)[1] if round_kills.is_deadly(m)]
    for moment in drawn(moments, 2):
        case = campaign.coordinator(job, moment)
        assert case.problems == (), case


@pytest.mark.campaign
def test_the_sum_of_a_secure_round_that_loses_a_site_is_the_mean_of_the_others(campaign):
    case = campaign.secure(3)
    assert case.problems == (), case


@pytest.mark.campaign
@pytest.mark.parametrize("strategy", ["trimmed_mean", "median"])
@pytest.mark.parametrize("how", round_kills.POISONS)
def test_a_site_that_poisons_what_it_learnt_is_outvoted_or_refused(campaign, strategy, how):
    case = campaign.poison(strategy, how)
    assert case.problems == (), case


@pytest.mark.campaign
def test_without_a_vote_a_poisoned_site_is_seen(campaign):
    """A campaign that finds nothing odd here would say nothing about the strategies that vote."""
    facts = campaign.poison("fedavg", "x100").facts
    assert facts["length"] > 10
    assert facts["between"] < 0.1
