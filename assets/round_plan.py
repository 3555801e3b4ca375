"""Round plans: what every site trains on what, how deltas become one adapter, how it is tried; immutable."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import dagster as dg
import polars as pl
from pydantic import Field

from assets.partitions import rounds
from resources.checkpoint_registry import CheckpointRegistry
from resources.federation import Federation
from resources.round_files import (
    log_ended_rounds,
    now_text,
    planned_rounds,
    publish_round_plan,
    read_adapter_record,
    read_round_plan,
    released_clips,
    released_waves,
    trial_places,
)
from resources.secure_rounds import forget_ended
from resources.site_keys import SiteKeys
from resources.site_log import SiteLog
from resources.site_store import SiteStore
from resources.tables import read_record
from resources.wave_plans import planned_waves, read_plan
from resources.world_models import WorldModels
from worldloop import layout
from worldloop.atlas.atlas import load_atlas
from worldloop.cosmos.families import ClipShape
from worldloop.cosmos.models import Model, model
from worldloop.errors import MalformedRecordError, UnknownKeyError
from worldloop.federation.gates import LIMITS
from worldloop.federation.held_out import neutral_scenes, pick_held_out
from worldloop.federation.rounds import (
    LORA_TARGETS,
    ROUND_KEY,
    Aggregation,
    Base,
    RoundPlan,
    Terms,
    Training,
    Trial,
    learned_waves,
)
from worldloop.prompts.prose import write_prose
from worldloop.releases import read_release
from worldloop.seeds import derive_seed

MAIN, NEW = "main", "new"


class TrainingConfig(dg.Config):
    """What a site does with its footage; see `worldloop.federation.rounds.Training`.

    Attributes:
        num_frames: Frames of a window; 0 takes the model's.
        width_px: Width of a window; 0 takes the model's.
        height_px: Height of a window; 0 takes the model's.
        rate_fps: Frames per second; 0 takes the model's.
        mode: `lora`; rounds carry adapters alone, so `full` is refused with a way round it.
        rank: Of the adapter.
        alpha: Its scale is alpha / rank.
        targets: Ends of the names of the adapted linear layers.
        first_blocks: Only this many leading blocks are adapted; 0: all.
        num_steps: Optimizer steps of a site.
        batch_size: Windows of a step.
        learning_rate: Peak of AdamW.
        warmup_steps: Steps of linear warm-up.
        weight_decay: Of AdamW.
        prox_mu: Pull towards the start, FedProx; 0: none.
        ema_decay: Of the averaged weights; 0: the last weights.
        caption_dropout: Share of windows without caption.
        conditioning_frames: First frames that a window may be given.
        max_clips: Clips of a site that are trained on; 0: all.
        precision: `bf16`, `fp32` or `fp8`.
        checkpoint_blocks: Whether activations are computed again in the backward pass.
        compile_blocks: Whether blocks are compiled, on a GPU only.
        keep_optimizer: Whether a site's optimizer goes on where it stood after its last delta.
        cosine_steps: Steps over which the learning rate falls to 0 along a cosine; 0: it stays.
        ema_rate: Of weights averaged as Cosmos 3 is trained, in the place of `ema_decay`; 0: none.
        sequence_interval: Every so-manieth frame of a video makes a window.
        start_frame_interval: Frames from the start of one window to the next; 0: side by side.
    """

    num_frames: int = 0
    width_px: int = 0
    height_px: int = 0
    rate_fps: int = 0
    mode: str = Training.mode
    rank: int = Training.rank
    alpha: float = Training.alpha
    targets: list[str] = Field(default_factory=lambda: list(LORA_TARGETS))
    first_blocks: int = Training.first_blocks
    num_steps: int = Training.num_steps
    batch_size: int = Training.batch_size
    learning_rate: float = Training.learning_rate
    warmup_steps: int = Training.warmup_steps
    weight_decay: float = Training.weight_decay
    prox_mu: float = Training.prox_mu
    ema_decay: float = Training.ema_decay
    caption_dropout: float = Training.caption_dropout
    conditioning_frames: list[int] = Field(default_factory=lambda: [0])
    max_clips: int = Training.max_clips
    precision: str = Training.precision
    checkpoint_blocks: bool = Training.checkpoint_blocks
    compile_blocks: bool = Training.compile_blocks
    keep_optimizer: bool = Training.keep_optimizer
    cosine_steps: int = Training.cosine_steps
    ema_rate: float = Training.ema_rate
    sequence_interval: int = Training.sequence_interval
    start_frame_interval: int = Training.start_frame_interval

    def training(self, default: ClipShape) -> Training:
        """The same for a plan."""
        fields = self.model_dump()
        shape = ClipShape(
            *(fields.pop(name) or getattr(default, name) for name in _SHAPE)  # in its own order
        )
        fields["targets"] = tuple(self.targets)
        fields["conditioning_frames"] = tuple(self.conditioning_frames)
        return Training(shape=shape, **fields)


class AggregationConfig(dg.Config):
    """How deltas travel and become one; see `worldloop.federation.rounds.Aggregation`.

    Attributes:
        strategy: `fedavg`, `fedadam`, `fedprox`, `diloco`, `trimmed_mean` or `median`. `trimmed_mean` needs a
            quorum of 2 `trim` + 1, so 3 by default.
        options: Of the strategy; what is left out takes its default.
        codec: `int8`, `int4` or `float32`.
        error_feedback: Whether what the codec lost is added to the site's next delta.
        secure: Whether deltas are masked, so that only their sum is ever known: at least 3 sites, no robust
            strategy, no late deltas. More than half of the sites must stay to the end.
        clip_norm: A site's delta is scaled down to this length; 0: no limit.
        noise_multiplier: Gaussian noise of a site, times `clip_norm`; 0: none.
        target_delta: Of the (epsilon, delta) that is reported.
        max_norm: A longer delta is refused; 0: no limit.
    """

    strategy: str = Aggregation.strategy
    options: dict[str, float] = Field(default_factory=dict)
    codec: str = Aggregation.codec
    error_feedback: bool = Aggregation.error_feedback
    secure: bool = Aggregation.secure
    clip_norm: float = Aggregation.clip_norm
    noise_multiplier: float = Aggregation.noise_multiplier
    target_delta: float = Aggregation.target_delta
    max_norm: float = Aggregation.max_norm


class TermsConfig(dg.Config):
    """When a round goes on and when it ends; see `worldloop.federation.rounds.Terms`.

    Attributes:
        quorum: Deltas without which nothing is aggregated; 0: two, or as many as there are sites. Say 3 or
            more with `trimmed_mean`; a secure round needs more than half of its sites in any case.
        deadline_s: Seconds after the plan at which what is there is aggregated.
        scores_deadline_s: Seconds after the adapter at which what sites said of it is judged.
        staleness_power: A delta of a plan n rounds old counts (1 + n) ** -staleness_power.
        max_staleness: Rounds that a delta may be late.
    """

    quorum: int = 0
    deadline_s: float = Terms.deadline_s
    scores_deadline_s: float = Terms.scores_deadline_s
    staleness_power: float = Terms.staleness_power
    max_staleness: int = Terms.max_staleness


class TrialConfig(dg.Config):
    """How a candidate is tried; see `worldloop.federation.rounds.Trial`.

    Attributes:
        held_out_cities: Never trained on; empty picks about a tenth of the cities with clips.
        num_clips: Held-out clips of a site that are measured; 0: all.
        noise_levels: Noise levels of each clip.
        prompts: Of the samples before and after; empty writes some about held-out places.
        num_prompts: How many, if they are written; fewer than the limit `min_samples` pass no gate.
        sample_steps: Denoising steps of a sample; 0 takes the model's.
        guidance: Guidance of a sample; negative takes the model's.
        seed: Of noise and samples.
        limits: Gates by name; what is left out takes its default.
        anchor_dir: Folder of real footage that must not become worse; empty: none.
    """

    held_out_cities: list[str] = Field(default_factory=list)
    num_clips: int = Trial.num_clips
    noise_levels: int = Trial.noise_levels
    prompts: list[str] = Field(default_factory=list)
    num_prompts: int = round(LIMITS["min_samples"].value)
    sample_steps: int = 0
    guidance: float = Trial.guidance
    seed: int = Trial.seed
    limits: dict[str, float] = Field(default_factory=dict)
    anchor_dir: str = Trial.anchor_dir


class RoundPlanConfig(dg.Config):
    """What a person or the sensor may ask of a round.

    Attributes:
        model: World model that is post-trained, such as `Cosmos-Predict2-2B-Video2World`; left out, the plan
            that stands is returned.
        revision: Revision of its weights; empty takes the one on disk, or the registered one.
        checkpoint: Folder of post-trained weights that is started from; empty: the model's own.
        base: Round whose adapter is gone on from; `main`: the one that is promoted now, if any; `new`: none.
        waves: Released waves to train on; empty: all that the adapter that is gone on from has not learned,
            those of rounds that failed, were refused or taken back included.
        sites: Members that are asked; empty: all that have clips to train on.
        training: What a site does.
        aggregation: How deltas become an adapter.
        terms: Quorum and deadlines.
        trial: How the candidate is tried.
        seed: Of the adapter's start, data order and noise; 0 derives one from the round's key.
        allow_no_held_out: Whether a round may go on without clips that nobody trains on; its gates then
            have no held-out loss to rest on.
        reason: Why the round is opened, in words.
    """

    model: str = ""
    revision: str = ""
    checkpoint: str = ""
    base: str = MAIN
    waves: list[str] = Field(default_factory=list)
    sites: list[str] = Field(default_factory=list)
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    aggregation: AggregationConfig = Field(default_factory=AggregationConfig)
    terms: TermsConfig = Field(default_factory=TermsConfig)
    trial: TrialConfig = Field(default_factory=TrialConfig)
    seed: int = 0
    allow_no_held_out: bool = False
    reason: str = ""


_SHAPE = ("num_frames", "width_px", "height_px", "rate_fps")


@dg.asset(
    group_name="federation",
    kinds={"json"},
    partitions_def=rounds,
    deps=[dg.AssetDep("release", partition_mapping=dg.AllPartitionMapping())],
    code_version="1",
)
def round_plan(
    context: dg.AssetExecutionContext,
    config: RoundPlanConfig,
    store: SiteStore,
    site_log: SiteLog,
    federation: Federation,
    world_models: WorldModels,
    registry: CheckpointRegistry,
) -> dg.MaterializeResult[None]:
    """The plan of one federated round: base, waves, sites, training, aggregation, terms and trial.

    Written once: running it again returns the plan that stands, and asking for another one is an
    error. Format: docs/formats.md#round-plan.
    """
    key = context.partition_key
    known = planned_rounds(store)
    log_ended_rounds(store, site_log, known)
    forget_ended(SiteKeys(federation.home), store)  # what a kill kept
    standing = read_round_plan(store, key) if key in known else None
    if not config.model:
        if standing is None:
            raise MalformedRecordError(
                f"round {key}",
                "no model",
                "the world model that is post-trained",
                "Set `model` in the run's config, e.g. Cosmos-Predict2-2B-Video2World.",
            )
        plan = standing
    else:
        plan = _Planner(store, federation, world_models, registry, known, key).plan(
            config, standing
        )
        publish_round_plan(store, plan)
    clips = released_clips(store, plan.waves)
    return dg.MaterializeResult(metadata=_describe(store, plan, clips))


class _Planner:
    """Fills in what a config leaves open."""

    def __init__(
        self,
        store: SiteStore,
        federation: Federation,
        world_models: WorldModels,
        registry: CheckpointRegistry,
        known: Sequence[str],
        key: str,
    ):
        self.store, self.federation, self.registry = store, federation, registry
        self.world_models, self.key = world_models, key
        self.earlier = {name: read_round_plan(store, name) for name in known if name != key}

    def plan(self, config: RoundPlanConfig, standing: RoundPlan | None) -> RoundPlan:
        """The plan; what a standing one has decided by the state of the world stays as it is."""
        which, training = model(config.model), config.training
        self._check_mode(which, training.mode)
        waves = config.waves or (list(standing.waves) if standing else self._new_waves(config))
        releases = [self._root_hash(wave) for wave in waves]
        clips = released_clips(self.store, waves)
        held_out = self._held_out(config, clips)
        sites = self._sites(config, clips, held_out)
        base = standing.base if standing and config.base == MAIN else self._base(config, waves)
        planned = training.training(which.default_shape)
        self._check_goes_on(base, planned)
        terms = config.terms.model_dump()
        terms["quorum"] = terms["quorum"] or min(2, len(sites))
        return RoundPlan(
            round=self.key,
            sites=tuple(sites),
            waves=tuple(waves),
            releases=tuple(releases),
            base=base,
            training=planned,
            aggregation=Aggregation(**config.aggregation.model_dump()),
            terms=Terms(**terms),
            trial=self._trial(config, held_out, clips, planned.shape),
            seed=config.seed or derive_seed("round", self.key),
            opened_at=standing.opened_at if standing else now_text(),
            reason=config.reason or (standing.reason if standing else ""),
        )

    def _check_mode(self, which: Model, mode: str) -> None:
        """Refuse rounds of all weights: a delta is as long as the model, and so is every checkpoint of a line."""
        if mode != "lora":
            raise MalformedRecordError(
                f"round {self.key}, mode of its training",
                mode,
                f"'lora': all weights of {which.name} would be {4 * which.params_b:.3g} GB a site and round "
                f"({which.params_b:.3g} GB in int8), where an adapter is a few MB",
                "Train all weights at one place with `worldloop posttrain --full`, put them into the folder of "
                "checkpoints, and plan rounds from there with `checkpoint`.",
            )

    def _new_waves(self, config: RoundPlanConfig) -> list[str]:
        """Released waves that what is gone on from has not learned."""
        base = self._base_round(config)
        learned = learned_waves(self.earlier, base)
        found = [wave for wave in released_waves(self.store) if wave not in learned]
        if not found:
            raise MalformedRecordError(
                f"round {self.key}, waves",
                f"no released wave that is new to {base or model(config.model).name}",
                "at least one",
                "Film and release a wave, or name the waves to train on again.",
            )
        return found

    def _root_hash(self, wave: str) -> str:
        if wave not in (known := planned_waves(self.store)):
            raise UnknownKeyError("planned wave", wave, known)
        key = layout.release_key(wave)
        if not self.store.exists(key):
            raise MalformedRecordError(
                f"round {self.key}, wave {wave}",
                "no release",
                "a wave that is closed and released",
                "Let the conductor close it, or run close_job for it.",
            )
        return str(read_release(read_record(self.store, key))["root_hash"])

    def _held_out(self, config: RoundPlanConfig, clips: pl.DataFrame) -> list[str]:
        named = config.trial.held_out_cities
        if named:
            known = load_atlas().cities
            for city in named:
                if city not in known:
                    raise UnknownKeyError("city", city, known)
            found = list(named)
        else:
            by_site = {str(site): set(rows["city"]) for (site,), rows in clips.group_by("site")}
            earlier = [c for plan in self.earlier.values() for c in plan.trial.held_out_cities]
            found = list(pick_held_out(by_site, earlier=earlier))
        earlier_waves = {
            wave
            for plan in self.earlier.values()
            if plan.base.model == config.model
            for wave in plan.waves
        }
        measured = pl.concat([clips, released_clips(self.store, sorted(earlier_waves))]).filter(
            pl.col("city").is_in(found)
        )
        if measured.is_empty() and not config.allow_no_held_out:
            raise MalformedRecordError(
                f"round {self.key}, held-out clips",
                f"none: {clips['city'].n_unique()} cities have clips, held out are {found or 'none'}",
                "clips of at least one city that nobody trains on",
                "Release clips of a second city, name other held_out_cities, or set allow_no_held_out.",
            )
        return found

    def _sites(
        self, config: RoundPlanConfig, clips: pl.DataFrame, held_out: Collection[str]
    ) -> list[str]:
        members = self.federation.members
        for site in config.sites:
            if site not in members:
                raise UnknownKeyError("member of the federation", site, members)
        trained = set(clips.filter(~pl.col("city").is_in(held_out))["site"])
        sites = config.sites or [site for site in members if site in trained]
        if not trained & set(sites):
            raise MalformedRecordError(
                f"round {self.key}",
                f"no clip to train on at {sites or members}: {clips.height} released, held out are "
                f"{list(held_out)}",
                "clips of a city that is not held out at one site or more",
                "Release more clips, or name other waves, sites or held_out_cities.",
            )
        return list(sites)

    def _base_round(self, config: RoundPlanConfig) -> str:
        """The round whose adapter is gone on from; empty: none."""
        if config.base == NEW:
            return ""
        return config.base if config.base != MAIN else self.registry.main(_line(config.model))

    def _base(self, config: RoundPlanConfig, waves: Sequence[str]) -> Base:
        which = model(config.model)
        fresh = Base(
            model=which.name,
            revision=config.revision or self.world_models.revision(which.name),
            checkpoint=config.checkpoint,
            lineage_depth=self._depth_of(waves),
        )
        named = self._base_round(config)
        if not named:
            return fresh
        record = read_adapter_record(self.store, named) if named in self.earlier else None
        if record is None:
            if not ROUND_KEY.fullmatch(named) or config.base != MAIN:
                raise UnknownKeyError("round with an adapter", named, self.earlier)
            return fresh
        return replace(
            fresh,
            adapter=named,
            adapter_sha256=record.adapter_sha256,
            lineage_depth=max(fresh.lineage_depth, self.earlier[named].base.lineage_depth),
        )

    def _depth_of(self, waves: Sequence[str]) -> int:
        """How many rounds lie beneath the footage: one more than beneath the adapters that made it."""
        depths = [0]
        for wave in waves:
            generated = read_plan(self.store, wave).world_model
            for lora in generated.loras if generated else ():
                made_by = [part for part in lora.path.split("/") if part in self.earlier]
                depths += [self.earlier[key].base.lineage_depth + 1 for key in made_by[-1:]]
        return max(depths)

    def _check_goes_on(self, base: Base, training: Training) -> None:
        """An adapter is gone on from with its own shape alone."""
        if not base.adapter:
            return
        before, names = self.earlier[base.adapter], ("rank", "alpha", "targets", "first_blocks")
        other = [n for n in names if getattr(before.training, n) != getattr(training, n)]
        if other or before.base.model != base.model:
            raise MalformedRecordError(
                f"round {self.key}, {', '.join(other) or 'model'}",
                {name: getattr(training, name) for name in other} or base.model,
                f"as in round {base.adapter}, whose adapter is gone on from: "
                f"{ {name: getattr(before.training, name) for name in other} or before.base.model }",
                "Plan the same, or set base to `new`.",
            )

    def _trial(
        self,
        config: RoundPlanConfig,
        held_out: Sequence[str],
        clips: pl.DataFrame,
        shape: ClipShape,
    ) -> Trial:
        which, asked = model(config.model), config.trial.model_dump()
        num_prompts = asked.pop("num_prompts")
        asked["held_out_cities"] = tuple(held_out)
        asked["sample_steps"] = asked["sample_steps"] or which.default_steps
        for name in asked["limits"]:
            if name not in LIMITS:
                raise UnknownKeyError("limit of a gate", name, LIMITS)
        if which.tiny:  # no guard knows what noise shows
            asked["limits"] = {"guards_required": 0.0, **asked["limits"]}
        atlas = load_atlas()
        written = (
            write_prose(scene, atlas)
            for scene in neutral_scenes(
                atlas,
                trial_places(clips, held_out),
                count=num_prompts,
                seed=config.trial.seed,
            )
        )
        return Trial(**{**asked, "prompts": tuple(asked["prompts"] or written)})


def _line(name: str) -> str:
    return name.lower()


def _describe(store: SiteStore, plan: RoundPlan, clips: pl.DataFrame) -> dict[str, Any]:
    held = pl.col("city").is_in(plan.trial.held_out_cities)
    counts: Mapping[str, tuple[int, int]] = {
        site: (rows.filter(~held).height, rows.filter(held).height)
        for site in plan.sites
        for rows in [clips.filter(pl.col("site") == site)]
    }
    lines = ["| site | clips to train on | held out |", "| --- | --- | --- |"]
    lines += [f"| {site} | {ours} | {held} |" for site, (ours, held) in counts.items()]
    base = plan.base
    return {
        "dagster/row_count": sum(ours for ours, _ in counts.values()),
        "plan_id": plan.plan_id,
        "base": f"{base.model}@{base.revision}" + (f" + {base.adapter}" if base.adapter else ""),
        "sites": ", ".join(plan.sites),
        "waves": ", ".join(plan.waves),
        "held_out_cities": ", ".join(plan.trial.held_out_cities) or "none",
        "num_steps": plan.training.num_steps,
        "strategy": plan.aggregation.strategy,
        "codec": plan.aggregation.codec,
        "quorum": plan.terms.quorum,
        "deadline_s": plan.terms.deadline_s,
        "lineage_depth": base.lineage_depth,
        "reason": plan.reason or "none given",
        "clips_by_site": dg.MetadataValue.md("\n".join(lines)),
        "prompts": dg.MetadataValue.md("\n".join(f"1. {text}" for text in plan.trial.prompts)),
        "location": dg.MetadataValue.path(f"{store.url}/{layout.round_plan_key(plan.round)}"),
    }
