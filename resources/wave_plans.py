"""Plans of waves and the atlases they pin, as they stand in a site's store."""

import json

from resources.site_store import SiteStore
from worldloop import layout
from worldloop.errors import PlanConflictError, UnknownKeyError
from worldloop.seeds import canonical_json
from worldloop.waves import WavePlan


def read_plan(store: SiteStore, wave: str) -> WavePlan:
    """The plan of a wave.

    Raises:
        UnknownKeyError: If the wave has no plan.
        MalformedRecordError: If the plan does not follow its format.
    """
    key = layout.plan_key(wave)
    if not store.exists(key):
        raise UnknownKeyError("planned wave", wave, planned_waves(store))
    return WavePlan.from_record(json.loads(store.get(key)))


def planned_waves(store: SiteStore) -> list[str]:
    """Every wave that has a plan, oldest first."""
    return sorted(key.split("/")[-1].removesuffix(".json") for key, _ in store.list("plans"))


def publish_plan(store: SiteStore, plan: WavePlan) -> bool:
    """Write a plan unless the same one stands already; a plan never changes.

    Returns:
        Whether this call wrote it.

    Raises:
        PlanConflictError: If the wave stands with another plan.
    """
    content = canonical_json(plan.to_record())
    key = layout.plan_key(plan.wave)
    if store.create(key, content):
        return True
    if WavePlan.from_record(json.loads(store.get(key))) != plan:  # an older version may say it too
        raise PlanConflictError(
            f"Wave {plan.wave!r} is planned already, with other places, shape, model or seed; plans never "
            "change. Open a new wave for the new plan."
        )
    return False
