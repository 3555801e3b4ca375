"""Samples of a round: what the model makes of the plan's neutral prompts before and after, and sketches beside them.

Whoever needs them first makes them; they stand at the coordinator then, for every site to compare with
its own footage. They are made of words that no clip has, so nothing of a site is in them but what
the adapter learnt. The sketches are rendered here, of scenes that no wave films: footage to measure
distances from, while the sites' own stays with them.
"""

import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from gpu_jobs.cosmos_generate.spec import CosmosGenerateSpec
from gpu_jobs.render_clips.spec import RenderClipsSpec
from resources.job_launcher import JobLauncher
from resources.round_files import (
    read_adapter_record,
    read_round_adapter,
    released_clips,
    trial_places,
)
from resources.site_store import SiteStore
from resources.staging import Staging
from resources.tables import publish_record, read_record
from resources.world_models import WorldModels
from worldloop import layout
from worldloop.atlas.atlas import load_atlas
from worldloop.budgets import total, work_of
from worldloop.cosmos.asking import nearest_shape
from worldloop.cosmos.families import ClipShape
from worldloop.cosmos.guards import UNGUARDED, default_guards, guards_of
from worldloop.cosmos.models import Model, model
from worldloop.cosmos.profiles import profile
from worldloop.cosmos.requests import ClipRequest, Conditioning
from worldloop.errors import JobFailedError, MalformedRecordError
from worldloop.federation.adapters import Arrays
from worldloop.federation.evaluation import AFTER, BEFORE, Guarded
from worldloop.federation.held_out import neutral_scenes
from worldloop.federation.model_card import LORA_WEIGHTS, diffusers_lora, lora_settings
from worldloop.federation.rounds import RoundPlan
from worldloop.recipes import Recipe, Shape
from worldloop.scenes.casting import CASTABLE

REFERENCE = "reference"
GROUPS = (BEFORE, AFTER)
_RECORD = "samples.json"
_NUM_SKETCHES = 16
_SKETCH_WIDTH_PX, _SKETCH_FRAMES = 256, 61
_START_S, _TINY_S, _SLOW_S = (
    600.0,
    30.0,
    1200.0,
)  # a job may take so long to start, and so long a clip


@dataclass(frozen=True)
class Samples:
    """The samples of a round as local files.

    Attributes:
        prompts: Of the samples that both groups have, in the plan's order.
        clips: Files by group, one a prompt.
        reference_dir: Folder of sketches of neutral scenes, as footage is laid out; None if there are none.
        guarded: What the guards said of those after.
        adapter_sha256: Of the candidate.
    """

    prompts: tuple[str, ...]
    clips: Mapping[str, tuple[Path, ...]]
    reference_dir: Path | None
    guarded: Guarded
    adapter_sha256: str


@dataclass(frozen=True)
class SampleMaker:
    """Makes the samples of rounds on this machine, or fetches those that stand.

    Attributes:
        context: Of the asset that asks.
        store: The coordinator's.
        staging: Scratch.
        launcher: Starts the jobs.
        world_models: Checkpoints and GPUs.
    """

    context: dg.AssetExecutionContext
    store: SiteStore
    staging: Staging
    launcher: JobLauncher
    world_models: WorldModels

    def samples(self, plan: RoundPlan, folder: Path) -> Samples:
        """The samples of a round, made if nobody has yet.

        Args:
            plan: Of the round; it has an adapter.
            folder: Scratch of the caller, for the files.

        Raises:
            JobFailedError: If the model or the renderer could not make them.
            MalformedRecordError: If the model does not take neutral prompts.
        """
        key = layout.sample_key(plan.round, "all", _RECORD)
        if not self.store.exists(key):
            with self.staging.lock(plan.round, "coordinator", "samples"):
                if not self.store.exists(key):
                    publish_record(self.store, key, self._make(plan))
        return self._fetch(plan, read_record(self.store, key), folder)

    def _make(self, plan: RoundPlan) -> dict[str, Any]:
        """Make what is lacking; the record that names all of it."""
        record = read_adapter_record(self.store, plan.round)
        assert record is not None
        scratch = self.staging.folder(plan.round, "samples")
        started_s = time.monotonic()
        sketches = self._render(plan, scratch / REFERENCE)
        used = work_of(time.monotonic() - started_s)
        self._keep(plan, REFERENCE, dict(enumerate(sketches)))
        adapters = {AFTER: read_round_adapter(self.store, plan.round), BEFORE: {}}
        if plan.base.adapter:
            adapters[BEFORE] = read_round_adapter(self.store, plan.base.adapter)
        made: dict[str, Any] = {
            "round": plan.round,
            "adapter_sha256": record.adapter_sha256,
            "num_reference": len(sketches),
        }
        for group in GROUPS:
            started_s = time.monotonic()
            report = self._generate(plan, group, adapters[group], sketches, scratch / group)
            used = total(used, self._work(report, time.monotonic() - started_s))
            clips = {int(row["recipe_id"].rsplit("-", 1)[1]): row for row in report["clips"]}
            files = {i: scratch / group / row["recipe_id"] / "rgb.mp4" for i, row in clips.items()}
            self._keep(plan, group, files)
            made[group] = {
                "indices": sorted(clips),
                "num_blocked": len(report.get("blocked", ())),
                "guards": _guards_that_ran(report),
            }
        self.staging.clear(plan.round, "samples")
        return {**made, "used": {kind: round(amount, 2) for kind, amount in used.items()}}

    def _work(self, report: Mapping[str, Any], wall_s: float) -> dict[str, float]:
        """What a job used: the GPUs are its own from the first to the last second."""
        on_gpu = any(row["gpu_s"] for row in report.get("receipts", ()))
        return work_of(wall_s, wall_s * self.world_models.cp_size if on_gpu else 0.0)

    def _generate(
        self,
        plan: RoundPlan,
        group: str,
        adapter: Arrays,
        sketches: Sequence[Path],
        folder: Path,
    ) -> Mapping[str, Any]:
        which, machine = model(plan.base.model), self.world_models
        folder.mkdir(parents=True, exist_ok=True)
        guards: dict[str, Any] = {}
        if not which.tiny:
            guards = default_guards(
                which.record, folder=machine.guardrail_dir or machine.checkpoint_dir
            )
        trial = plan.trial
        spec = CosmosGenerateSpec(
            model=plan.base.model,
            revision=plan.base.revision,
            checkpoint_dir=machine.checkpoint_dir,
            requests=tuple(
                request.to_record() for request in requests(plan, which, group, sketches)
            ),
            shape=asdict(sample_shape(plan)),
            num_steps=trial.sample_steps,
            guidance=which.default_guidance if trial.guidance < 0 else trial.guidance,
            sampler=which.known_samplers[0],
            profile=profile("exact").to_record(),
            staging_dir=str(folder),
            pack_path=str(folder.with_name(f"{group}.tar")),  # without one no clip is reported
            transformer_dir=plan.base.checkpoint,
            loras=_as_loras(plan, adapter, folder.with_name(f"{group}.adapter")),
            guards=guards,
            device=machine.device,
            cp_size=machine.cp_size,
            memory_cap_gb=machine.memory_cap_gb,
        )
        a_clip_s = _TINY_S if which.tiny else _SLOW_S
        report = self.launcher.run(
            "cosmos_generate",
            spec,
            context=self.context,
            timeout_s=_START_S + a_clip_s * len(trial.prompts),
            num_processes=machine.cp_size,
        )
        if not report["clips"] and trial.prompts and not report.get("blocked"):
            raise JobFailedError(
                f"No sample {group} of round {plan.round} could be made; expected {len(trial.prompts)}. Reasons: "
                f"{sorted({str(row['reason']) for row in report['failures']})[:3]}."
            )
        return report

    def _render(self, plan: RoundPlan, folder: Path) -> list[Path]:
        """Sketches of neutral scenes, in the shape of the samples or smaller."""
        recipes = [
            Recipe(scene, shape) for shape in [sketch_shape(plan)] for scene in self._scenes(plan)
        ]
        if not recipes:
            return []
        spec = RenderClipsSpec(
            recipes=tuple(recipe.to_record() for recipe in recipes),
            staging_dir=str(folder),
            pack_path=str(folder.with_name("reference.tar")),
        )
        report = self.launcher.run(
            "render_clips",
            spec,
            context=self.context,
            timeout_s=_START_S + 120.0 * len(recipes),
        )
        made = {row["recipe_id"] for row in report["clips"]}
        return [folder / r.recipe_id / "rgb.mp4" for r in recipes if r.recipe_id in made]

    def _scenes(self, plan: RoundPlan) -> list[Any]:
        """Scenes of the places that can be sketched."""
        places = trial_places(released_clips(self.store, plan.waves), plan.trial.held_out_cities)
        return neutral_scenes(
            load_atlas(),
            [place for place in places if place.partition("/")[2] in CASTABLE],
            count=_NUM_SKETCHES,
            seed=plan.trial.seed,
        )

    def _keep(self, plan: RoundPlan, group: str, files: Mapping[int, Path]) -> None:
        for index, path in files.items():
            self.store.put(layout.sample_key(plan.round, group, _name(index)), path.read_bytes())

    def _fetch(self, plan: RoundPlan, record: Mapping[str, Any], folder: Path) -> Samples:
        common = [i for i in record[BEFORE]["indices"] if i in record[AFTER]["indices"]]
        num_sketches, after = record["num_reference"], record[AFTER]
        reference = folder / "samples" / REFERENCE
        self._bring(plan, REFERENCE, range(num_sketches), reference / "videos")
        return Samples(
            prompts=tuple(plan.trial.prompts[index] for index in common),
            clips={
                group: self._bring(plan, group, common, folder / "samples" / group)
                for group in GROUPS
            },
            reference_dir=reference if num_sketches else None,
            guarded=Guarded(len(plan.trial.prompts), after["num_blocked"], tuple(after["guards"])),
            adapter_sha256=record["adapter_sha256"],
        )

    def _bring(
        self, plan: RoundPlan, group: str, indices: Iterable[int], target: Path
    ) -> tuple[Path, ...]:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        paths = {index: target / _name(index) for index in indices}
        for index, path in paths.items():
            path.write_bytes(self.store.get(layout.sample_key(plan.round, group, _name(index))))
        return tuple(paths.values())


def work_of_samples(store: SiteStore, round_key: str) -> dict[str, float]:
    """What making a round's samples used, by kind of the ledger; nothing if there are none."""
    key = layout.sample_key(round_key, "all", _RECORD)
    return dict(read_record(store, key).get("used", {})) if store.exists(key) else {}


def requests(
    plan: RoundPlan, which: Model, group: str, sketches: Sequence[Path]
) -> list[ClipRequest]:
    """What the model is asked for; one that needs a picture goes on from a sketch of the same scene.

    Raises:
        MalformedRecordError: If the model makes nothing of words or pictures alone.
    """
    tasks, still = which.all_tasks, sample_shape(plan).num_frames == 1
    from_words = "text2image" in tasks if still else "text2world" in tasks
    if not from_words and "video2world" not in tasks:
        raise MalformedRecordError(
            f"round {plan.round}, model {which.name}",
            f"tasks {tasks}",
            "text2world, video2world or text2image, which neutral prompts can be given to",
            "Post-train a model of one of them.",
        )
    return [
        ClipRequest(
            clip_id=f"{plan.round}-{group}-{index}",
            prompt=prompt,
            seed=plan.trial.seed + index,
            conditioning=None
            if from_words
            else Conditioning(
                str(sketches[index % len(sketches)]), which.record.conditioning_frames[0]
            ),
        )
        for index, prompt in enumerate(plan.trial.prompts)
    ]


def sample_shape(plan: RoundPlan) -> ClipShape:
    """The shape of samples: that of training, or the nearest that the model makes."""
    return nearest_shape(plan.training.shape, model=model(plan.base.model))


def sketch_shape(plan: RoundPlan) -> Shape:
    """The shape of sketches: that of samples, no wider than a sketch is and no longer."""
    shape = sample_shape(plan)
    share = min(1.0, _SKETCH_WIDTH_PX / shape.width_px)
    width, height = (
        max(16, 2 * round(side * share / 2)) for side in (shape.width_px, shape.height_px)
    )
    return Shape(min(max(shape.num_frames, 5), _SKETCH_FRAMES), width, height, shape.rate_fps)


def _as_loras(plan: RoundPlan, adapter: Arrays, folder: Path) -> tuple[dict[str, Any], ...]:
    """An adapter as a folder that the job reads; none for the base alone."""
    if not adapter:
        return ()
    folder.mkdir(parents=True, exist_ok=True)
    content = diffusers_lora(adapter, lora_settings(plan.training, adapter))
    (folder / LORA_WEIGHTS).write_bytes(content)
    return ({"path": str(folder), "weight": 1.0},)


def _guards_that_ran(report: Mapping[str, Any]) -> list[str]:
    """Guards that looked at every sample."""
    states = [str(row["guardrail"]) for row in report.get("generations", ())]
    if not states or UNGUARDED in states:
        return []
    ran = [set(guards_of(state)) for state in states]
    return sorted(set.intersection(*ran))


def _name(index: int) -> str:
    return f"{index:03d}.mp4"
