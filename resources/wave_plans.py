"""Plans of waves and the atlases they pin, as they stand in a site's store."""

import json
from collections.abc import Iterable

from resources.site_store import SiteStore
from worldloop import layout
from worldloop.errors import PlanConflictError, UnknownKeyError
from worldloop.seeds import canonical_json
from worldloop.waves import WavePlan, next_wave_key

_CLAIM_VERSION = 1


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


def claim_wave(store: SiteStore, known: Iterable[str], *, cause: str) -> str:
    """Take the next key of a wave for a cause; no other cause ever gets it, whoever asks at the same time.

    A claim is created if absent, and whoever comes second takes the next key. A cause that asks again, as
    after a kill, gets the key that it has, until that is known or planned; so a key may stay unused.

    Args:
        store: The coordinator's.
        known: Keys that are taken, beside those that have a plan.
        cause: What the wave is for, such as `regenerate:r0001`; asking twice for one cause opens one wave.
    """
    taken = {*known, *planned_waves(store)}
    while not take_wave(store, wave := next_wave_key(taken), cause=cause):
        taken.add(wave)
    return wave


def take_wave(store: SiteStore, wave: str, *, cause: str) -> bool:
    """Take one key of a wave for a cause, where the key has a say in what is made.

    Returns:
        Whether the cause has it now; False if another one was quicker.
    """
    content = canonical_json({"cause": cause, "version": _CLAIM_VERSION})
    key = layout.wave_claim_key(wave)
    return store.create(key, content) or store.get(key) == content
