"""A federation of three folders whose rounds run through the real definitions: with a tiny model, or with stand-ins."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
from pydantic import Field

from assets.partitions import site_round_key
from resources.federation import Federation
from resources.round_files import read_outcome, read_round_plan
from resources.tables import publish, publish_record
from resources.trainers import Trainers
from resources.wave_plans import publish_plan
from tests import rows
from tests.assets.generation import StandInLauncher, write_noise
from tests.conftest import House
from tests.resources.test_site_footage import packed_clips
from worldloop import layout
from worldloop.atlas.atlas import load_atlas
from worldloop.federation.adapters import (
    adapter_bytes,
    adapter_sha256,
    difference,
    initial_adapter,
    norm,
    read_adapter,
)
from worldloop.federation.moments import STEP, untouched
from worldloop.recipes import Shape
from worldloop.records import CAPTIONS, MANIFEST
from worldloop.seeds import stream
from worldloop.waves import plan_wave

MODEL = "Tiny-Cosmos-1.0-Text2World"
HOMES = {"aws": ("tokyo", "rome"), "azure": ("paris", "cairo"), "gcp": ("lima",)}
HELD_OUT = ("cairo", "rome")
SITES = "\n".join(
    ["[sites.local]\ncities = []\nstore = 'site'"]
    + [
        f"[sites.{name}]\ncities = {[*cities]}\nstore = 'sites/{name}'"
        for name, cities in HOMES.items()
    ]
)
# What a random model and a handful of clips cannot show: a better loss or better samples, and enough of either.
LOOSE = {
    "must_improve": 0.0,
    "held_out_loss_max": 10.0,
    "held_out_cell_max": 10.0,
    "min_held_out_clips": 1.0,
    "min_cell_clips": 1.0,
    "min_samples": 2.0,
    "distance_rise_max": 10.0,
    "text_cosine_loss_max": 2.0,
    "caption_gain_loss_max": 10.0,
    "temporal_consistency_loss_max": 10.0,
    "kept_share_min": 0.0,
    "memorisation_chance": 0.0,
    "copy_similarity": 1.0,
}
TRAINING = {"num_steps": 4, "rank": 2, "alpha": 2.0, "warmup_steps": 1, "precision": "fp32"}


@dataclass
class Rounds(House):
    """A coordinator without cities and three sites in folders."""

    _definitions: dg.Definitions | None = None

    def __post_init__(self) -> None:
        path = self.root / "sites.toml"
        path.write_text(SITES)
        super().__post_init__()
        self.federation = Federation(sites_path=str(path), home=str(self.root))
        self.resources["store"] = self.federation.federated_store()
        self.resources["site_log"] = self.federation.federated_log()

    def definitions(self) -> dg.Definitions:
        """Made once: nothing of a house changes after its first run."""
        if self._definitions is None:
            self._definitions = super().definitions()
        return self._definitions

    def film(self, wave: str = "w0001", *, without: str = HELD_OUT[0]) -> None:
        """A released wave with clips of every city but one: rendering starts a process a city."""
        cities = [city for mine in HOMES.values() for city in mine if city != without]
        self.plan(wave, [f"{city}/museum" for city in cities])
        self.carry(wave, cities)

    def make_model(self) -> None:
        """The tiny model among the checkpoints."""
        from orchestration.models import write_tiny

        write_tiny(MODEL, self.root / "checkpoints")

    def plan_round(
        self, key: str = "r0001", *, raises: bool = True, **config
    ) -> dg.ExecuteInProcessResult:
        """Plan a round; what is not said is small and loose."""
        self.instance.add_dynamic_partitions("round", [key])
        trial = {
            "held_out_cities": [*HELD_OUT],
            "num_prompts": 2,
            "noise_levels": 1,
            "limits": LOOSE,
            **config.pop("trial", {}),
        }
        asked = {"model": MODEL, "training": TRAINING, "trial": trial, **config}
        return self.execute(
            "round_job", key, {"ops": {"round_plan": {"config": asked}}}, raises=raises
        )

    def train(self, site: str, key: str = "r0001", *, raises: bool = True):
        return self.execute("delta_job", site_round_key(site, key), raises=raises)

    def score(self, site: str, key: str = "r0001", *, raises: bool = True):
        return self.execute("scores_job", site_round_key(site, key), raises=raises)

    def round_plan(self, key: str = "r0001"):
        return read_round_plan(self.store, key)

    def outcome(self, key: str = "r0001"):
        return read_outcome(self.store, key)

    def metadata(self, asset: str) -> dict:
        event = self.instance.get_latest_materialization_event(dg.AssetKey(asset))
        found = event.asset_materialization.metadata
        return {name: value.value for name, value in found.items()}

    def stop_trainers(self) -> None:
        for site in ("local", *HOMES):
            self.resources["trainers"].stop(site)


LAYERS = {"transformer_blocks.0.attn1.to_q": (6, 4), "transformer_blocks.0.ff.net.2": (4, 8)}


class StandInTrainers(Trainers):
    """Answers as gpu_jobs/posttrain/spec.py says, in milliseconds; what a site learns follows from its name.

    Attributes:
        dead: Sites whose trainer cannot be reached.
        poisoned: Sites whose training goes ten thousand times as far.
    """

    dead: list[str] = Field(default_factory=list)
    poisoned: list[str] = Field(default_factory=list)

    def run(self, site, command, spec, *, timeout_s, on_event=None):
        from worldloop.errors import JobFailedError

        ASKED.append((site, command))
        if site in self.dead:
            raise JobFailedError(f"The trainer of {site} ended in the middle of {command!r}.")
        if command == "train":
            return _trained(spec, scale=5.0 if site in self.poisoned else 0.0005)
        return {"measure": _measured, "judge": _judged}[command](spec)


ASKED: list[tuple[str, str]] = []


def _trained(spec, *, scale: float) -> dict[str, Any]:
    start = initial_adapter(spec.seed, LAYERS, spec.training["rank"])
    if spec.start_adapter:
        start = read_adapter(Path(spec.start_adapter))
    drawn = stream(spec.seed, "stand-in", spec.site)
    end = {
        name: each + drawn.normal(0, scale, each.shape).astype(np.float32)
        for name, each in start.items()
    }
    output = Path(spec.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    (output / "adapter.safetensors").write_bytes(adapter_bytes(end))
    (output / "start.safetensors").write_bytes(adapter_bytes(start))
    if spec.training["keep_optimizer"]:
        given = read_adapter(Path(spec.start_moments)) if spec.start_moments else untouched(end)
        steps = np.float32(spec.training["num_steps"])
        stands = {n: each + steps if n.endswith(STEP) else each for n, each in given.items()}
        (output / "moments.safetensors").write_bytes(adapter_bytes(stands))
    clips = (Path(spec.footage_dir) / "clips.jsonl").read_text().splitlines()
    return {
        "output_dir": str(output),
        "num_clips": len(clips),
        "num_windows": len(clips),
        "num_steps": spec.training["num_steps"],
        "num_parameters": sum(each.size for each in end.values()),
        "loss_before": 0.5,
        "loss_after": 0.4,
        "losses": [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.4}],
        "norm": norm(difference(end, start)),
        "tokens_per_s": 100.0,
        "wall_s": 1.0,
        "gpu_s": 0.0,
        "resumed_at": 0,
        "start_sha256": adapter_sha256(start),
    }


def _measured(spec) -> dict[str, Any]:
    listed = (Path(spec.footage_dir) / "clips.jsonl").read_text().splitlines()
    held_out = [c for c in map(json.loads, listed) if not spec.cities or c["city"] in spec.cities]
    losses = [
        {
            "adapter": adapter["name"],
            "recipe_id": clip["recipe_id"],
            "city": clip["city"],
            "institution": clip["institution"],
            "loss": loss,
            "loss_other_caption": loss + 0.1,
        }
        for adapter, loss in zip(spec.adapters, (0.5, 0.45), strict=True)
        for clip in held_out
    ]
    nearest = [
        {"adapter": name, "sample": number, "similarity": 0.4, "typical": 0.6}
        for name, paths in spec.samples.items()
        for number in range(len(paths))
    ]
    return {"losses": losses, "nearest": nearest, "wall_s": 2.0, "gpu_s": 0.0}


def _judged(spec) -> dict[str, Any]:
    measures = (
        "kernel_distance_starter",
        "kernel_distance_latent",
        "text_cosine",
        "temporal_consistency",
        "sharpness",
        "motion",
    )
    found = {"before": 1.0, "after": 1.0, "after - before": 0.0}
    count = len(spec.groups[0]["clips"])
    scores = [
        {"group": group, "measure": measure, "judge": "stand-in", "value": value, "low": value,
         "high": value, "num_clips": count}
        for group, value in found.items()
        for measure in measures
    ]  # fmt: skip
    return {
        "scores": scores,
        "clips": [],
        "sheet_path": spec.sheet_path,
        "versions": {},
        "wall_s": 3.0,
    }


class StandInJobs(StandInLauncher):
    """Neither renders nor generates: both jobs make noise."""

    def run(self, job, spec, *, context, timeout_s, num_processes=1):
        if job != "render_clips":
            return super().run(job, spec, context=context, timeout_s=timeout_s)
        from worldloop.recipes import Recipe

        recipes = [Recipe.from_record(record) for record in spec.recipes]
        for recipe in recipes:
            request = {"clip_id": recipe.recipe_id, "seed": recipe.scene.seed}
            write_noise(Path(spec.staging_dir), request, asdict(recipe.shape))
        return {"clips": [{"recipe_id": one.recipe_id} for one in recipes], "failures": []}


@dataclass
class MadeUpRounds(Rounds):
    """The same federation; its footage, trainers and generators are made up."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.resources["trainers"] = StandInTrainers(folder=str(self.root / "trainers"))
        self.resources["launcher"] = StandInJobs()

    def film(self, wave: str = "w0001") -> None:
        """A released wave of made-up clips: packs, private logs, manifest and release."""
        store, released = self.resources["store"], []
        for site, cities in HOMES.items():
            for city in cities:
                released.append(self._film(site, city, wave))
        places = [f"{city}/museum" for cities in HOMES.values() for city in cities]
        shape = Shape(9, 64, 64, 24)
        publish_plan(
            store,
            plan_wave(
                load_atlas(), wave=wave, places=places, clips_per_place=1, seed=1, shape=shape
            ),
        )
        publish(store, MANIFEST, layout.manifest_key(wave), pl.concat(released))
        record = {"version": 1, "wave": wave, "root_hash": f"{wave[1:]:0>64}", "duration_s": 8.0}
        publish_record(store, layout.release_key(wave), {**record, "num_clips_by_place": {}})
        self.instance.add_dynamic_partitions("wave", [wave])

    def _film(self, site: str, city: str, wave: str) -> pl.DataFrame:
        packed, content = packed_clips(rows.clips(range(2), wave=wave, city=city))
        self.federation.store(site).put(packed["pack_key"][0], content)
        log = self.federation.log(site)
        log.append("clips", packed)
        told = packed.with_columns(caption=pl.lit(f"a secret of {city}"), prose=pl.lit("long"))
        log.append("captions", CAPTIONS.conform(told.select(list(CAPTIONS.columns))))
        rows_ = told.with_columns(site=pl.lit(site), offset=pl.lit(0))
        return MANIFEST.conform(rows_.select(list(MANIFEST.columns)))

    def harm(self, **how: list[str]) -> None:
        """Trainers are dead or poisoned from now on; before the first run."""
        folder = self.resources["trainers"].folder
        self.resources["trainers"] = StandInTrainers(folder=folder, **how)

    def sent(self, site: str, name: str = "delta.bin", key: str = "r0001") -> Path:
        """Where a site's file lies at the coordinator."""
        return self.root / "site" / layout.sent_key(key, site, name)


def files_of(root: Path) -> dict[str, bytes]:
    """Every file beneath a folder."""
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
