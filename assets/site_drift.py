"""Site drift: how far a site's newer footage has moved from what the promoted checkpoint was trained on."""

from collections.abc import Iterable

import dagster as dg

from resources.federation import Federation
from resources.site_drift import DriftTask, measure_drift, publish_drift
from resources.site_store import SiteStore
from worldloop import layout
from worldloop.federation.drift import MIN_CLIPS
from worldloop.plots import readable


class DriftConfig(dg.Config):
    """Which footage is compared.

    Attributes:
        base: Round whose footage the newer is compared with.
        before: Waves that the promoted rounds were trained on.
        since: Released waves since, oldest first.
    """

    base: str
    before: list[str]
    since: list[str]


def build_site_drift(sites: Iterable[str]) -> dg.AssetsDefinition:
    """The asset, partitioned by the sites of the sites file."""

    @dg.asset(
        name="site_drift",
        description=_DESCRIPTION,
        group_name="federation",
        kinds={"numpy"},
        partitions_def=dg.StaticPartitionsDefinition(list(sites)),
        deps=[dg.AssetDep("release", partition_mapping=dg.AllPartitionMapping())],
        code_version="1",
    )
    def site_drift(
        context: dg.AssetExecutionContext,
        config: DriftConfig,
        store: SiteStore,
        federation: Federation,
    ) -> dg.MaterializeResult[None]:
        site = context.partition_key
        task = DriftTask(site, config.base, tuple(config.before), tuple(config.since))
        measured = measure_drift(federation, task)
        if measured is None:
            return dg.MaterializeResult(
                metadata={"note": f"Fewer than {MIN_CLIPS} released clips before or since."}
            )
        publish_drift(store, measured)
        return dg.MaterializeResult(
            metadata={
                "drift": readable(measured.drift),
                "num_clips": measured.num_clips,
                "base": measured.base,
                "wave": measured.wave,
                "location": dg.MetadataValue.path(f"{store.url}/{layout.drift_key(site)}"),
            }
        )

    return site_drift


_DESCRIPTION = """How far the embeddings of a site's newer footage have moved; one number, at the coordinator.

It is computed at the site from its own vectors, which stay there. 1 is as far as footage lies from its own
mean. Asked for by the sensor `retraining`, where `max_drift` is set. Format: docs/formats.md#drift.
"""
