"""Wave plans: which places get how many clips of which shape; immutable, with the atlas pinned."""

from collections.abc import Mapping

import dagster as dg
from pydantic import Field

from assets.partitions import waves
from resources.federated_wave import those_that_answer
from resources.footage import read_made_clips
from resources.round_files import released_waves
from resources.site_log import SiteLog
from resources.site_store import SiteStore
from resources.wave_plans import planned_waves, publish_plan, read_plan
from resources.world_models import WorldModels
from worldloop import layout
from worldloop.atlas.atlas import Atlas, load_atlas
from worldloop.budgets import estimate_clips, estimate_world_model, total
from worldloop.cosmos.plans import Lora, WorldModelPlan, plan_world_model
from worldloop.coverage_counts import accept_counts
from worldloop.errors import MalformedRecordError, PlanConflictError
from worldloop.federation.triggers import wave_order
from worldloop.recipes import Shape
from worldloop.scenes.coverage import accept_weights
from worldloop.seeds import derive_seed
from worldloop.waves import WavePlan, plan_covering_wave, plan_scenes, plan_wave

_SKETCH_FRAMES, _SKETCH_RATE_FPS = 61, 24
_MOST_SHOWN = 12  # places in a table of metadata
_UNUSED = {  # what has nothing left to decide, by what somebody may name
    "scenes": ("weigh_by_acceptance",),
    "places": ("targets", "weights", "mix", "weigh_by_acceptance"),
    "targets": ("weigh_by_acceptance",),
}


class LoraConfig(dg.Config):
    """A LoRA adapter of the world model.

    Attributes:
        path: Its folder or file.
        weight: How strongly it counts.
    """

    path: str
    weight: float = 1.0


class WavePlanConfig(dg.Config):
    """What a person may ask of a wave; what is left out follows from the waves before it.

    Attributes:
        places: Places such as `tokyo/zoo`; empty picks the least covered ones.
        num_cities: How many places to pick when `places` is empty, one per city.
        clips_per_place: Clips of each place.
        scenes: Given scenes instead of places, `tokyo/zoo@<seed>` each.
        targets: Clips of given places, `tokyo/zoo: 12`, whose scenes are chosen to cover most; instead of the three above.
        weights: How often places are picked, 1 for those that are not named: `tokyo/zoo`, `tokyo/*` or `*/zoo`; 0 leaves them out.
        mix: Shares of content categories among picked scenes, such as `driving: 0.3`; those that are not named get none.
        weigh_by_acceptance: Whether places that lost clips in curation, in earlier released waves, are picked more often.
        asked: What every scene has: `season`, `daypart`, `weather`, `crowd`, `camera` or `category`.
        num_frames: Frames of a sketch; 0 takes those of the world model that follows it, or 61.
        width_px: Width of a sketch.
        height_px: Height of a sketch.
        rate_fps: Frames per second of a sketch; 0 takes those of the world model that follows it, or 24.
        num_samples: Samples a pixel.
        seed: Seed of the wave; 0 derives one from the wave's key.
        world_model: Model that makes clips of the same scenes, such as `Cosmos-Predict2-2B-Video2World`; empty: none.
        tier: Its shape and speed: `draft`, `standard`, `hero`, or `tiny` for models with random weights.
        profile: Its speed profile; empty takes the tier's.
        revision: Revision of its weights; empty takes the registered one.
        num_steps: Denoising steps; 0 takes what profile, tier or model say.
        guidance: Guidance scale; left out, the model's.
        sampler: Its sampler; empty takes the model's first.
        negative_prompt: What guidance leads away from; `local` names what would be false at each scene's place; left out, the family's.
        prompt_form: `prose` or `cosmos3`; empty takes what the model reads.
        control: What it takes from the sketch: `depth`, `seg`, `edge`, `blur`, `first_frames`.
        source: `sketch`, or `draft` when drafts are promoted.
        conditioning_frames: With `first_frames`, how many; 0 takes the fewest that the model takes.
        share: Share of the scenes that it makes, 0 to 1.
        batch_size: Clips that it denoises together.
        guarded: Whether guards look at prompts and frames; some models require them.
        allow_unguarded: Whether the release may hold unguarded clips and those of tiny models.
        accept_failed_gate: Whether a speed profile that failed its quality gate may be used all the same.
        checkpoint: Folder of post-trained weights.
        loras: LoRA adapters.
        drafts: Recipe ids of the drafts that are promoted, one for each of `scenes`.
    """

    places: list[str] = Field(default_factory=list)
    num_cities: int = 5
    clips_per_place: int = 3
    scenes: list[str] = Field(default_factory=list)
    targets: dict[str, int] = Field(default_factory=dict)
    weights: dict[str, float] = Field(default_factory=dict)
    mix: dict[str, float] = Field(default_factory=dict)
    weigh_by_acceptance: bool = False
    asked: dict[str, str] = Field(default_factory=dict)
    num_frames: int = 0
    width_px: int = 256
    height_px: int = 144
    rate_fps: int = 0
    num_samples: int = 5
    seed: int = 0
    world_model: str = ""
    tier: str = "draft"
    profile: str = ""
    revision: str = ""
    num_steps: int = 0
    guidance: float | None = None
    sampler: str = ""
    negative_prompt: str | None = None
    prompt_form: str = ""
    control: list[str] = Field(default_factory=list)
    source: str = "sketch"
    conditioning_frames: int = 0
    share: float = 1.0
    batch_size: int = 1
    guarded: bool = True
    allow_unguarded: bool = False
    accept_failed_gate: bool = False
    checkpoint: str = ""
    loras: list[LoraConfig] = Field(default_factory=list)
    drafts: list[str] = Field(default_factory=list)

    def shape(self) -> Shape:
        """The shape of every sketch."""
        model = self.model_plan()
        follows = model is not None and bool(model.video_controls)
        num_frames, rate_fps = _SKETCH_FRAMES, _SKETCH_RATE_FPS
        if model is not None and follows:
            num_frames, rate_fps = model.shape.num_frames, model.shape.rate_fps
        return Shape(
            self.num_frames or num_frames,
            self.width_px,
            self.height_px,
            self.rate_fps or rate_fps,
            self.num_samples,
        )

    def model_plan(self) -> WorldModelPlan | None:
        """What the world model is asked for; None without one."""
        if not self.world_model:
            return None
        return plan_world_model(
            self.world_model,
            tier=self.tier,
            speed=self.profile,
            revision=self.revision,
            num_steps=self.num_steps,
            guidance=self.guidance,
            sampler=self.sampler,
            negative_prompt=self.negative_prompt,
            prompt_form=self.prompt_form,
            batch_size=self.batch_size,
            share=self.share,
            control=self.control,
            source=self.source,
            conditioning_frames=self.conditioning_frames,
            guarded=self.guarded,
            allow_unguarded=self.allow_unguarded,
            accept_failed_gate=self.accept_failed_gate,
            checkpoint=self.checkpoint,
            loras=[Lora(lora.path, lora.weight) for lora in self.loras],
            drafts=self.drafts,
        )

    def estimate(self, usd_per_gpu_hour: float) -> dict[str, float]:
        """What the clips of these scenes or places will use, by kind of budget."""
        asked = [scene.partition("@")[0] for scene in self.scenes] or self.places
        asked = asked or list(self.targets)
        num_clips = len(asked) * (1 if self.scenes else self.clips_per_place)
        if not (self.scenes or self.places):
            num_clips = sum(self.targets.values())
        sketches, plan = estimate_clips(num_clips, self.shape()), self.model_plan()
        if plan is None:
            return sketches
        num_cities = len({place.partition("/")[0] for place in asked})
        return total(
            sketches,
            estimate_world_model(
                plan, num_clips, num_cities=num_cities, usd_per_gpu_hour=usd_per_gpu_hour
            ),
        )


@dg.asset(
    group_name="planning",
    kinds={"json"},
    partitions_def=waves,
    deps=["place_atlas"],
    code_version="4",
)
def wave_plan(
    context: dg.AssetExecutionContext,
    config: WavePlanConfig,
    store: SiteStore,
    site_log: SiteLog,
    world_models: WorldModels,
) -> dg.MaterializeResult[None]:
    """The plan of one wave: an ordered list of clips to make, and what a world model makes of them.

    Each clip is a place, a seed and the values that were asked of its scene. If places were weighed by
    acceptance, the plan keeps the counts and the metadata shows which places weighed more by them.
    The model's revision is the commit that is on disk; planned before its download, the registered one.
    Written once: running it again returns the plan that stands, and asking for another one is an
    error. Format: docs/formats.md#wave-plan.
    """
    wave = context.partition_key
    standing = read_plan(store, wave) if store.exists(layout.plan_key(wave)) else None
    if standing is not None and not (config.places or config.scenes or config.targets):
        plan = standing
    else:
        plan = _plan(context, store, site_log, _pinned(config, world_models))
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
            "duration_s": round(len(plan.clips) * plan.shape.duration_s, 2),
            "atlas_hash": plan.atlas_hash,
            **_describe(plan.world_model),
            **_describe_counts(plan.accept_counts),
            "location": dg.MetadataValue.path(f"{store.url}/{layout.plan_key(wave)}"),
        }
    )


def _describe(model: WorldModelPlan | None) -> dict[str, dg.MetadataValue]:
    if model is None:
        return {}
    return {
        "world_model": dg.MetadataValue.text(f"{model.model}@{model.revision}"),
        "tier": dg.MetadataValue.text(model.tier),
        "generated": dg.MetadataValue.json(model.to_record()),
    }


def _describe_counts(
    counts: Mapping[str, tuple[int, int]],
) -> dict[str, int | dg.MetadataValue]:
    if not counts:
        return {}
    weights = accept_weights(counts)
    heaviest = sorted(weights, key=lambda place: (-weights[place], place))[:_MOST_SHOWN]
    lines = ["| place | accepted | made | accept rate | weight |", "|-|-|-|-|-|"]
    for place in heaviest:
        accepted, made = counts[place]
        rate, weight = f"{accepted / made:.0%}", f"x {weights[place]:.2f}"
        lines.append(f"| {place} | {accepted} | {made} | {rate} | {weight} |")
    return {
        "num_weighed_up": len(counts),
        "weighed_up": dg.MetadataValue.md("\n".join(lines)),
    }


def _pinned(config: WavePlanConfig, world_models: WorldModels) -> WavePlanConfig:
    """The config with the revision of its model, where the user named none."""
    if not config.world_model or config.revision:
        return config
    return config.model_copy(update={"revision": world_models.revision(config.world_model)})


def _plan(
    context: dg.AssetExecutionContext, store: SiteStore, site_log: SiteLog, config: WavePlanConfig
) -> WavePlan:
    atlas, wave = load_atlas(), context.partition_key
    seed = config.seed or derive_seed("wave", wave)
    for named in ("scenes", "places", "targets"):
        _refuse_with(config, named)
    if config.scenes:
        return plan_scenes(
            atlas,
            wave=wave,
            scenes=config.scenes,
            seed=seed,
            shape=config.shape(),
            world_model=config.model_plan(),
        )
    if config.places:
        return plan_wave(
            atlas,
            wave=wave,
            places=config.places,
            clips_per_place=config.clips_per_place,
            seed=seed,
            shape=config.shape(),
            world_model=config.model_plan(),
            asked=config.asked,
        )
    counts = _accept_counts(context, store, site_log, atlas) if config.weigh_by_acceptance else None
    earlier = [
        read_plan(store, known)
        for known in planned_waves(store)
        if wave_order(known) < wave_order(wave)
    ]
    return plan_covering_wave(
        atlas,
        wave=wave,
        num_cities=config.num_cities,
        clips_per_place=config.clips_per_place,
        seed=seed,
        shape=config.shape(),
        history=[clip for plan in earlier for clip in plan.clips],
        targets=config.targets,
        weights=config.weights,
        mix=config.mix,
        accept_counts=counts,
        asked=config.asked,
        world_model=config.model_plan(),
    )


def _accept_counts(
    context: dg.AssetExecutionContext, store: SiteStore, site_log: SiteLog, atlas: Atlas
) -> dict[str, tuple[int, int]]:
    """Clips accepted and made of places that lost some, in the released waves before this one."""
    store, site_log, silent = those_that_answer(store, site_log)
    known, mine = released_waves(store), wave_order(context.partition_key)
    earlier = [wave for wave in known if wave_order(wave) < mine]
    counts = accept_counts(atlas, read_made_clips(site_log, waves=earlier))
    context.log.info("%d places lost clips in %d released waves", len(counts), len(earlier))
    if silent:
        context.log.warning("Clips of sites that do not answer are not counted: %s", list(silent))
    return counts


def _refuse_with(config: WavePlanConfig, named: str) -> None:
    """Places that somebody named leave nothing to pick."""
    unused = [name for name in _UNUSED[named] if getattr(config, name)]
    if getattr(config, named) and unused:
        raise MalformedRecordError(
            "wave plan",
            f"{named} together with {', '.join(unused)}",
            f"either {named}, or what decides which are picked",
            "Leave one of them out.",
        )
