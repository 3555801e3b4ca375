"""Wave plans: which places get how many clips of which shape; immutable, with the atlas pinned."""

import dagster as dg
from pydantic import Field

from assets.partitions import waves
from resources.site_store import SiteStore
from resources.wave_plans import planned_waves, publish_plan, read_plan
from worldloop import layout
from worldloop.atlas.atlas import load_atlas
from worldloop.errors import PlanConflictError
from worldloop.recipes import Shape
from worldloop.seeds import derive_seed
from worldloop.waves import WavePlan, choose_places, plan_wave


class WavePlanConfig(dg.Config):
    """What a person may ask of a wave; what is left out follows from the waves before it.

    Attributes:
        places: Places such as `tokyo/zoo`; empty picks the least covered ones.
        num_cities: How many places to pick when `places` is empty, one per city.
        clips_per_place: Clips of each place.
        num_frames: Frames a clip.
        width_px: Width of a clip.
        height_px: Height of a clip.
        rate_fps: Frames per second.
        num_samples: Samples a pixel.
        seed: Seed of the wave; 0 derives one from the wave's key.
    """

    places: list[str] = Field(default_factory=list)
    num_cities: int = 5
    clips_per_place: int = 3
    num_frames: int = 61
    width_px: int = 256
    height_px: int = 144
    rate_fps: int = 24
    num_samples: int = 5
    seed: int = 0

    def shape(self) -> Shape:
        """The shape of every clip."""
        return Shape(
            self.num_frames, self.width_px, self.height_px, self.rate_fps, self.num_samples
        )


@dg.asset(
    group_name="planning",
    kinds={"json"},
    partitions_def=waves,
    deps=["place_atlas"],
    code_version="1",
)
def wave_plan(
    context: dg.AssetExecutionContext, config: WavePlanConfig, store: SiteStore
) -> dg.MaterializeResult[None]:
    """The plan of one wave: an ordered list of clips to make, each a place and a seed.

    Written once: running it again returns the plan that stands, and asking for another one is an
    error. Format: docs/formats.md#wave-plan.
    """
    wave = context.partition_key
    standing = read_plan(store, wave) if store.exists(layout.plan_key(wave)) else None
    if standing is not None and not config.places:
        plan = standing
    else:
        plan = _plan(store, wave, config)
        if standing is not None and plan != standing:
            raise PlanConflictError(
                f"Wave {wave!r} is planned already and the plan asked for differs; plans never "
                "change. Open a new wave for it."
            )
        publish_plan(store, plan)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(plan.clips),
            "num_cities": len(plan.cities),
            "cities": ", ".join(plan.cities),
            "duration_s": len(plan.clips) * plan.shape.duration_s,
            "atlas_hash": plan.atlas_hash,
            "location": dg.MetadataValue.path(f"{store.url}/{layout.plan_key(wave)}"),
        }
    )


def _plan(store: SiteStore, wave: str, config: WavePlanConfig) -> WavePlan:
    atlas = load_atlas()
    seed = config.seed or derive_seed("wave", wave)
    earlier = [read_plan(store, known) for known in planned_waves(store) if known < wave]
    return plan_wave(
        atlas,
        wave=wave,
        places=config.places
        or choose_places(
            atlas,
            num_cities=config.num_cities,
            history=[clip.place for plan in earlier for clip in plan.clips],
            seed=seed,
        ),
        clips_per_place=config.clips_per_place,
        seed=seed,
        shape=config.shape(),
    )
