"""Site scores: what each site measures of a round's candidate on footage that nobody trained on.

Ids, keys of places and numbers leave the site, through the outbox; pictures and captions do not.
"""

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from assets.partitions import site_by_round, split_site_round
from assets.site_delta import footage_folder, lay_out_base
from gpu_jobs.posttrain.spec import MEASURE, MeasureSpec
from resources.failpoints import reached
from resources.federation import Federation
from resources.job_launcher import JobLauncher
from resources.outbox import Outbox
from resources.round_files import (
    clips_to_train_on,
    read_adapter_record,
    read_evaluation_record,
    read_outcome,
    read_round_adapter,
    read_round_plan,
    trial_waves,
)
from resources.round_samples import SampleMaker
from resources.site_footage import SiteFootage, StagedFootage
from resources.site_keys import SiteKeys
from resources.site_store import SiteStore
from resources.staging import Staging
from resources.trainers import Trainers
from resources.world_models import WorldModels
from worldloop.errors import MalformedRecordError
from worldloop.federation.adapters import adapter_bytes
from worldloop.federation.envelopes import read_record, sign_record
from worldloop.federation.evaluation import AFTER, BEFORE, SiteScores, mean_interval
from worldloop.federation.outbox import SCORES, facts
from worldloop.federation.rounds import RoundPlan
from worldloop.plots import readable

_NOT_ASKED = "The round does not ask this site."
_OVER = "The round was judged without this site's scores; later ones would not count."
_MIN_TIMEOUT_S = 60.0


def build_site_scores(sites: Iterable[str]) -> dg.AssetsDefinition:
    """The asset, partitioned by the sites of the sites file and by round."""

    @dg.asset(
        name="site_scores",
        description=_DESCRIPTION,
        group_name="federation",
        kinds={"pytorch"},
        partitions_def=site_by_round(sites),
        deps=[
            dg.AssetDep(
                "adapter", partition_mapping=dg.MultiToSingleDimensionPartitionMapping("round")
            )
        ],
        pool="gpu",
        code_version="1",
        retry_policy=dg.RetryPolicy(max_retries=1, delay=3),
    )
    def site_scores(
        context: dg.AssetExecutionContext,
        store: SiteStore,
        federation: Federation,
        staging: Staging,
        launcher: JobLauncher,
        trainers: Trainers,
        world_models: WorldModels,
    ) -> dg.MaterializeResult[None]:
        site, round_key = split_site_round(context.partition_key)
        plan, outbox = read_round_plan(store, round_key), Outbox(store)
        if site not in plan.sites:
            return dg.MaterializeResult(metadata={"note": _NOT_ASKED})
        with staging.lock(round_key, site, "site_scores"):
            if outbox.sent(round_key, site, SCORES) is None:
                if _is_too_late(store, round_key):
                    return dg.MaterializeResult(metadata={"note": _OVER})
                maker = SampleMaker(context, store, staging, launcher, world_models)
                site_at_work = _SiteAtWork(
                    store, federation, staging, trainers, world_models, maker, plan, site
                )
                site_at_work.send(outbox)
            else:
                context.log.info("The scores of %s in %s stand already", site, round_key)
        staging.clear(round_key, f"{site}.scores")
        return dg.MaterializeResult(metadata=_describe(outbox, plan, site))

    return site_scores


_DESCRIPTION = """What one site says of a round's candidate: losses before and after on its held-out clips, the same noise
for both, and how near the samples come to what the site trained on.

Scores that stand are not measured again. A site without held-out clips says so. Format: docs/formats.md#scores.
"""


@dataclass(frozen=True)
class _SiteAtWork:
    """Everything that one site needs to measure a candidate."""

    store: SiteStore
    federation: Federation
    staging: Staging
    trainers: Trainers
    world_models: WorldModels
    maker: SampleMaker
    plan: RoundPlan
    site: str

    def send(self, outbox: Outbox) -> None:
        """Measure and send."""
        plan, site = self.plan, self.site
        record = read_adapter_record(self.store, plan.round)
        if record is None:
            raise MalformedRecordError(
                f"round {plan.round}",
                "no adapter",
                "the adapter that is to be measured",
                "Materialise `adapter` of this round first.",
            )
        keys = SiteKeys(self.federation.home)
        keys.publish(self.store, site)
        scores = SiteScores.from_report(
            self._measure(),
            site=site,
            plan=plan,
            adapter_sha256=record.adapter_sha256,
            num_training_clips=clips_to_train_on(self.store, plan)[site],
        )
        content = sign_record(scores.to_record(), keys.private_key(site))
        reached("site_scores.before_send")
        outbox.send(plan.round, site, SCORES, content)

    def _measure(self) -> Mapping[str, Any]:
        """The report; an empty one if the site has no held-out clips."""
        footage = SiteFootage(
            self.federation, self.site, footage_folder(self.federation, self.site)
        )
        with footage.in_use(self.maker.context.log.info):
            return self._measured(footage)

    def _measured(self, footage: SiteFootage) -> Mapping[str, Any]:
        plan, held_out = self.plan, self.plan.trial.held_out_cities
        held = footage.stage_held_out(
            trial_waves(self.store, plan),
            held_out_cities=held_out,
            max_clips=plan.trial.num_clips,
        )
        if not held.num_clips:
            return {"losses": [], "nearest": []}
        trained = footage.stage_train(
            plan.waves, held_out_cities=held_out, max_clips=plan.training.max_clips
        )
        folder = self.staging.folder(plan.round, f"{self.site}.scores")
        both = joined(folder / "footage", held, trained)
        candidate = folder / "candidate.safetensors"
        candidate.write_bytes(adapter_bytes(read_round_adapter(self.store, plan.round)))
        samples: dict[str, list[str]] = {}
        if trained.num_clips and plan.trial.prompts:
            made = self.maker.samples(plan, folder)
            samples = {name: [str(path) for path in paths] for name, paths in made.clips.items()}
        spec = MeasureSpec(
            model=plan.base.model,
            revision=plan.base.revision,
            checkpoint_dir=self.world_models.checkpoint_dir,
            footage_dir=str(both),
            adapters=(
                {"name": BEFORE, "path": lay_out_base(self.store, plan, folder)},
                {"name": AFTER, "path": str(candidate)},
            ),
            shape=asdict(plan.training.shape),
            seed=plan.trial.seed,
            noise_levels=plan.trial.noise_levels,
            cities=held_out,
            memorisation=any(samples.values()),
            samples=samples,
            alpha=plan.training.alpha,
            transformer_dir=plan.base.checkpoint,
            cache_dir=str(held.cache_dir),
            precision=plan.training.precision,
            device=self.world_models.device,
            sequence_interval=plan.training.sequence_interval,
        )
        return self.trainers.run(
            self.site,
            MEASURE,
            spec,
            timeout_s=max(plan.terms.scores_deadline_s, _MIN_TIMEOUT_S),
        )


def joined(folder: Path, *parts: StagedFootage) -> Path:
    """One folder of footage of several, by links; whatever was there before goes.

    Args:
        folder: Where.
        parts: Without a clip in common.
    """
    shutil.rmtree(folder, ignore_errors=True)
    lines: list[str] = []
    for name in ("videos", "metas"):
        (folder / name).mkdir(parents=True)
    for part in parts:
        clips = part.folder / "clips.jsonl"
        listed = [line for line in clips.read_text(encoding="utf-8").splitlines() if line]
        for line in listed:
            clip = json.loads(line)["name"]
            for path in (Path("videos") / f"{clip}.mp4", Path("metas") / f"{clip}.txt"):
                (folder / path).symlink_to((part.folder / path).absolute())
        lines += listed
    (folder / "clips.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder


def _is_too_late(store: SiteStore, round_key: str) -> bool:
    judged = read_evaluation_record(store, round_key) is not None
    return judged or read_outcome(store, round_key) is not None


def _describe(outbox: Outbox, plan: RoundPlan, site: str) -> dict[str, Any]:
    """Numbers and ids of the scores that stand."""
    content = outbox.sent(plan.round, site, SCORES)
    assert content is not None
    record = read_record(content, what=SCORES)
    scores = SiteScores.from_record({k: v for k, v in record.items() if k != "signature"})
    after = [row for row in scores.nearest if row.adapter == AFTER]
    shown: dict[str, Any] = {
        "round": plan.round,
        "site": site,
        "num_held_out_clips": len(scores.losses),
        "num_training_clips": scores.num_training_clips,
        "num_samples": len(after),
        "size_bytes": len(content),
        "wall_s": scores.wall_s,
        "gpu_s": scores.gpu_s,
        "adapter_sha256": scores.adapter_sha256,
    }
    if scores.losses:
        change = mean_interval([row.change for row in scores.losses], "site", site)
        shown |= {
            "loss_before": sum(row.before for row in scores.losses) / len(scores.losses),
            "loss_after": sum(row.after for row in scores.losses) / len(scores.losses),
            "change": change.mean,
            "change_low": change.low,
            "change_high": change.high,
        }
    if after:
        shown["nearest_similarity"] = max(row.similarity for row in after)
        shown["typical_similarity"] = after[0].typical
    return facts({k: readable(v) if isinstance(v, float) else v for k, v in shown.items()})
