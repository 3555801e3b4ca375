"""The catalogs of the sites: one asset a site, made by the same code whatever its store is.

What a catalog is made of (the Lance table, the Iceberg tables, their registration) and how it is
worked on stands in `resources.catalog_upkeep`; here it gets its name, its clock and its checks.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import dagster as dg

from resources.catalog_repair import agreement, exposure, follow, heal
from resources.catalog_upkeep import Catalogs, Followed
from worldloop.catalog_status import SiteStatus
from worldloop.errors import (
    AccessError,
    BudgetExceededError,
    LeaseHeldError,
    MalformedRecordError,
    StoreError,
)
from worldloop.sites import Site

GROUP = "catalog"
NOBODY = "nobody"  # what the metadata `unheard` says when every site could be heard
RETRIES = dg.RetryPolicy(  # the store's client has tried for a minute before that
    max_retries=2, delay=5, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS
)
_A_DAY = timedelta(days=1)
CHECKS: Mapping[str, str] = {
    "the_catalogs_agree": "The Iceberg table `clips` has the same content at every site that can be "
    "reached and is not behind.",
    "nothing_is_missing": "Every batch of the logs, every row of the tables and every pack stands. "
    "What is missing is put back from where it still is; fails if something stays missing.",
    "the_index_answers": "The vector index finds what comparing every vector finds.",
    "not_public": "Nobody outside may read the site's store.",
    "within_budget": "Requests, bytes and money of today are below the site's limits.",
}


def asset_name(site: str) -> str:
    """The asset of a site.

    Example:
        >>> asset_name("aws")
        'aws_catalog'
    """
    return f"{site}_catalog"


def is_site_catalog(key: dg.AssetKey) -> bool:
    """Whether an asset is the catalog of a site."""
    return key.to_user_string().endswith("_catalog")


def pool_of(site: str) -> str:
    """The pool in which a site's catalogs are worked on, one run at a time."""
    return f"catalog_{site}"


def follow_the_logs() -> "dg.AutomationCondition[Any]":
    """Ask for a site's catalogs when a wave entered the logs, was released, or a round ended.

    An open wave, which has no catalog yet, holds nothing up. This asks once; `uneven_catalogs` asks
    again for a site that could not be reached.
    """
    return dg.AutomationCondition.eager().without(~dg.AutomationCondition.any_deps_missing())


def build_site_catalog(site: Site) -> dg.AssetsDefinition:
    """The asset of one site."""

    @dg.asset(
        name=asset_name(site.name),
        description=_description(site),
        group_name=GROUP,
        kinds={"lancedb", "iceberg"} | ({site.cloud} - {"local"}),
        deps=["catalog", "release", "evaluation", "promoted_checkpoint"],
        automation_condition=follow_the_logs(),
        # Dagster counts from the last materialisation, and the night makes one; lag itself is
        # watched by `late_catalogs`.
        freshness_policy=dg.FreshnessPolicy.time_window(
            fail_window=_A_DAY + timedelta(seconds=max(site.max_lag_s, 60.0))
        ),
        pool=pool_of(site.name),
        code_version="1",
        retry_policy=RETRIES,
    )
    def site_catalog(
        context: dg.AssetExecutionContext, catalogs: Catalogs
    ) -> dg.MaterializeResult[None]:
        try:
            done, healed = follow(
                catalogs, site.name, key=f"{context.run.run_id}/{site.name}/{context.retry_number}"
            )
        except (AccessError, BudgetExceededError, MalformedRecordError) as error:
            # waiting heals none of these; causes are left out, as clients quote signed addresses
            raise dg.Failure(f"{site.name}: {error}", allow_retries=False) from None
        except (StoreError, LeaseHeldError) as error:
            raise dg.Failure(f"{site.name}: {error}") from None
        if healed is not None:
            context.log.warning(
                "The log of %s had holes: %d of %d were filled",
                site.name,
                healed.num_repaired,
                healed.num_missing,
            )
        for key in done.refilled:
            context.log.warning("%s was lost at %s and has been copied again", key, site.name)
        for other, why in done.unheard.items():
            context.log.warning("The log of %s could not be fetched: %s", other, why)
        return dg.MaterializeResult(metadata=as_metadata(done.status) | _of_this_run(done))

    return site_catalog


def build_site_checks(site: Site) -> dg.AssetChecksDefinition:
    """The checks of one site's catalogs; one step runs those that were asked for."""
    asset = asset_name(site.name)

    @dg.multi_asset_check(
        name=f"{asset}_checks",
        specs=[
            dg.AssetCheckSpec(name, asset=asset, description=text) for name, text in CHECKS.items()
        ],
        pool=pool_of(site.name),
        can_subset=True,
    )
    def checks(
        context: dg.AssetCheckExecutionContext, catalogs: Catalogs
    ) -> Iterator[dg.AssetCheckResult]:
        asked = {key.name for key in context.selected_asset_check_keys}
        for name in (one for one in CHECKS if one in asked):
            yield _checked(name, catalogs, site)

    return checks


def as_metadata(status: SiteStatus) -> dict[str, Any]:
    """How a site stands, as Dagster shows it: the columns of `worldloop catalog status`."""
    facts = {k: v for k, v in status.facts().items() if k not in ("site", "problem")}
    moment = status.last_repair
    facts["last_repair"] = "never" if moment is None else dg.MetadataValue.timestamp(moment)
    facts["location"] = dg.MetadataValue.path(status.location)
    facts["recall"] = "not measured" if status.recall is None else round(status.recall, 4)
    facts["num_behind"] = status.num_behind
    lines = ["| projection | rows | bytes | behind | index | location |", "|-|-|-|-|-|-|"]
    lines += [
        f"| {p.name} | {p.num_rows} | {p.size_bytes} | {p.num_behind} | {p.index or '-'} | {p.location} |"
        for p in status.projections
    ]
    shown = {"dagster/row_count": facts.pop("num_rows"), **facts}
    shown["projections"] = dg.MetadataValue.md("\n".join(lines))
    return {name: value for name, value in shown.items() if value not in (None, "")}


def _of_this_run(done: Followed) -> dict[str, Any]:
    return {
        "searchable_after_s": round(done.searchable_after_s, 2),
        "copied_batches": done.copied,
        "refilled_batches": len(done.refilled),
        "applied_batches": sum(one.num_batches for one in done.applied.values()),
        "rebuilt": ", ".join(name for name, one in done.applied.items() if one.rebuilt)
        or "nothing",
        "unheard": ", ".join(done.unheard) or NOBODY,
    }


def _description(site: Site) -> str:
    return (
        f"What the site `{site.name}` finds its clips with, made from the logs in `{site.store}`: a "
        "Lance table of its own clips (vectors, text, filters), Iceberg tables of the clips of all "
        "sites (scalars), and their registration with the cloud's own tools.\n\n"
        "Everything in it can be thrown away (`worldloop catalog rebuild`). Formats: "
        "docs/formats.md#clip-index and #iceberg."
    )


def _checked(name: str, catalogs: Catalogs, site: Site) -> dg.AssetCheckResult:
    """The result of one look; a site that does not answer fails it in words, not with a traceback."""
    try:
        passed, facts = _LOOKS[name](catalogs, site)
    except StoreError as error:
        passed, facts = False, {"problem": str(error)}
    return dg.AssetCheckResult(
        passed=passed, check_name=name, asset_key=asset_name(site.name), metadata=facts
    )


def _agrees(catalogs: Catalogs, site: Site) -> tuple[bool, dict[str, Any]]:
    found = agreement(catalogs, site.name)
    facts = {
        "content": found.content,
        "compared_with": ", ".join(found.agreeing) or "no other site",
        "differs_from": ", ".join(found.differing) or "none",
        "not_compared": "; ".join(f"{s}: {why}" for s, why in found.not_compared.items()) or "none",
    }
    return not found.differing, facts


def _is_whole(catalogs: Catalogs, site: Site) -> tuple[bool, dict[str, Any]]:
    found = heal(catalogs, site.name)
    facts = {
        "num_missing": found.num_missing,
        "num_repaired": found.num_repaired,
        "still_missing": dg.MetadataValue.json(list(found.still_missing[:20])),
    }
    return not found.still_missing, facts


def _answers(catalogs: Catalogs, site: Site) -> tuple[bool, dict[str, Any]]:
    status = catalogs.look(site.name)
    if status.recall is None:
        return True, {"recall": "not measured: no vectors yet, or too few for an index"}
    least = catalogs.targets.least_recall  # below it the advisor chooses another index
    return status.recall >= least, {
        "recall": status.recall,
        "target": catalogs.target_recall,
        "index": status.index,
    }


def _is_private(catalogs: Catalogs, site: Site) -> tuple[bool, dict[str, Any]]:
    open_to_all = exposure(catalogs, site.name)
    return not open_to_all, {"open_to_everybody": "; ".join(open_to_all) or "nothing"}


def _is_affordable(catalogs: Catalogs, site: Site) -> tuple[bool, dict[str, Any]]:
    lines = [line for line in catalogs.budget(site.name) if line.limit < float("inf")]
    spent = [line.kind for line in lines if line.left < 0 or (line.left == 0 and line.limit > 0)]
    facts = {line.kind: f"{line.limit - line.left:.6g} of {line.limit:.6g}" for line in lines}
    return not spent, facts or {"limits": "none"}


_LOOKS: Mapping[str, Callable[[Catalogs, Site], tuple[bool, dict[str, Any]]]] = {
    "the_catalogs_agree": _agrees,
    "nothing_is_missing": _is_whole,
    "the_index_answers": _answers,
    "not_public": _is_private,
    "within_budget": _is_affordable,
}
