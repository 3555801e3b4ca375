"""Rounds and evaluations as tests of several modules use them."""

from dataclasses import replace

import numpy as np

from worldloop.cosmos.families import ClipShape
from worldloop.federation.evaluation import (
    AdapterSize,
    Evaluation,
    Guarded,
    Nearest,
    PairedLoss,
    Score,
    SiteScores,
    merge,
)
from worldloop.federation.rounds import (
    Aggregation,
    Base,
    RoundPlan,
    Terms,
    Training,
    Trial,
)

ADAPTER = "ab" * 32
SITES = ("aws", "azure", "gcp")
JUDGES = {
    "kernel_distance_starter": "starter-0",
    "kernel_distance_latent": "frame_statistics",
    "text_cosine": "starter-0",
    "temporal_consistency": "block_matching_8px",
    "motion": "signals",
    "sharpness": "signals",
}


def plan(**changes) -> RoundPlan:
    fields = {
        "round": "r0002",
        "sites": SITES,
        "waves": ("w0001", "w0002"),
        "releases": ("11" * 32, "22" * 32),
        "base": Base(
            "Tiny-Cosmos-1.0-Text2World", "tiny", adapter="r0001", adapter_sha256="cd" * 32
        ),
        "training": Training(ClipShape(9, 64, 48, 24)),
        "aggregation": Aggregation(),
        "terms": Terms(),
        "trial": Trial(held_out_cities=("lima", "oslo")),
        "seed": 3,
        "opened_at": "2026-11-20T10:00:00+00:00",
    }
    return RoundPlan(**{**fields, **changes})


def losses(site: str, *, change: float = -0.05, count: int = 12, noise: float = 0.01):
    rng = np.random.default_rng(len(site))
    return tuple(
        PairedLoss(
            recipe_id=f"{site}{number:028x}",
            city=("lima", "oslo")[number % 2],
            institution=("zoo", "museum", "street")[number % 3],
            before=1.0,
            after=1.0 + change + noise * float(rng.normal()),
            before_other=1.1,
            after_other=1.1 + change,
            site=site,
        )
        for number in range(count)
    )


def nearest(site: str, *, similarity: float = 0.4, count: int = 8):
    return tuple(Nearest("after", number, similarity, 0.6, site) for number in range(count))


def site_scores(site: str, of: RoundPlan, **changes) -> SiteScores:
    fields = {"losses": losses(site), "nearest": nearest(site), "num_training_clips": 40}
    return SiteScores(site, of.round, of.plan_id, ADAPTER, **{**fields, **changes})


def judged(measure: str, *, change: float = 0.0, spread: float = 0.01, count: int = 8):
    judge = JUDGES[measure]
    rows = [Score(group, measure, judge, 0.5, 0.4, 0.6, count) for group in ("before", "after")]
    low, high = change - spread, change + spread
    return (*rows, Score("after - before", measure, judge, change, low, high, count))


def evaluation(of: RoundPlan, **changes) -> Evaluation:
    """A candidate that passes every gate."""
    merged = merge(of, [site_scores(site, of) for site in of.sites], adapter_sha256=ADAPTER)
    fields = {
        "scores": tuple(row for measure in JUDGES for row in judged(measure)),
        "guarded": Guarded(8, 0, ("text",)),
        "size": AdapterSize(change=1.0, num_parameters=10_000),
    }
    return replace(merged, **{**fields, **changes})
