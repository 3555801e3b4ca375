"""Rows of worldloop's tables, made up, for tests and for the golden files: small, valid, seeded by a number."""

import hashlib
import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import polars as pl

from tests.factories import make_scene
from worldloop import records

_INSTITUTIONS = ("street", "hospital", "zoo", "museum", "amusement_park")
RGB_BYTES, POSTER_BYTES = 4000, 500
GUARDED = "text:blocklist+llama_guard video:content+faces"


def shard(index: int, *, wave: str = "w0001", city: str = "tokyo") -> dict[str, Any]:
    """The columns that every row of a shard begins with."""
    institution = _INSTITUTIONS[index % len(_INSTITUTIONS)]
    return {"wave": wave, "index": index, "city": city, "institution": institution}


def ids(index: int, *, wave: str = "w0001", city: str = "tokyo") -> dict[str, str]:
    """Recipe, scene and content of one made-up clip."""
    name = f"{wave}/{city}/{index}"
    return {
        "recipe_id": _hex(f"recipe {name}", 32),
        "scene_id": _hex(f"scene {name}", 32),
        "content_sha256": _hex(f"content {name}", 64),
    }


def prompts(indices: range, **where: str) -> pl.DataFrame:
    """Rows of `records.PROMPTS`, with a real scene each."""
    return _frame(records.PROMPTS, [_prompt(i, **where) for i in indices])


def clips(indices: range, **where: str) -> pl.DataFrame:
    """Rows of `records.CLIPS`; all of one call lie in one pack."""
    return _frame(records.CLIPS, [_clip(i, **where) for i in indices])


def signals(indices: range, *, rejected: tuple[int, ...] = (), **where: str) -> pl.DataFrame:
    """Rows of `records.SIGNALS`; the indices in `rejected` are too dark."""
    return _frame(records.SIGNALS, [_signal(i, i not in rejected, **where) for i in indices])


def vectors(indices: range, **where: str) -> pl.DataFrame:
    """Rows of `records.VECTORS`, 8 numbers each."""
    return _frame(records.VECTORS, [_vector(i, **where) for i in indices])


def dedup(indices: range, *, duplicates: tuple[int, ...] = (), **where: str) -> pl.DataFrame:
    """Rows of `records.DEDUP`; the indices in `duplicates` repeat the first clip."""
    first = ids(indices[0], **where)["recipe_id"]
    return _frame(
        records.DEDUP,
        [_dedup(i, first if i in duplicates else None, **where) for i in indices],
    )


def superseded(older: int, newer: int, **where: str) -> pl.DataFrame:
    """One row of `records.SUPERSEDED`."""
    row = {
        "recipe_id": ids(older, **where)["recipe_id"],
        "superseded_by": ids(newer, **where)["recipe_id"],
        "kind": "semantic",
        "similarity": 0.99,
    }
    return _frame(records.SUPERSEDED, [row])


def failures(indices: range, **where: str) -> pl.DataFrame:
    """Rows of `records.FAILURES`."""
    return _frame(
        records.FAILURES,
        [
            {**shard(i, **where), **_pick(i, "scene_id", "recipe_id", **where)}
            | {"stage": "build", "reason": "nowhere to stand"}
            for i in indices
        ],
    )


def receipts(indices: range, **where: str) -> pl.DataFrame:
    """Rows of `records.RECEIPTS`: one rendering step of 2 CPU seconds a clip."""
    return _frame(records.RECEIPTS, [_receipt(i, **where) for i in indices])


def generated_id(index: int, *, wave: str = "w0001", city: str = "tokyo") -> str:
    """Recipe of the clip that a world model made of a made-up scene."""
    return _hex(f"generated {wave}/{city}/{index}", 32)


def generated_clips(indices: range, **where: str) -> pl.DataFrame:
    """Rows of `records.CLIPS` of the same scenes as `clips`, by a world model."""
    made = [generated_id(i, **where) for i in indices]
    return clips(indices, **where).with_columns(
        recipe_id=pl.Series(made, dtype=pl.String),
        content_sha256=pl.Series([_hex(f"content {name}", 64) for name in made], dtype=pl.String),
        generator=pl.lit("cosmos-made-up"),
    )


def generations(
    indices: range, *, guardrail: str = GUARDED, tiny: bool = False, **where: str
) -> pl.DataFrame:
    """Rows of `records.GENERATIONS`: drafts that go on from the sketches of `clips`."""
    rows = [_generation(i, **where) | {"guardrail": guardrail, "tiny": tiny} for i in indices]
    return _frame(records.GENERATIONS, rows)


def blocked(indices: range, **where: str) -> pl.DataFrame:
    """Rows of `records.BLOCKED`."""
    rows = [
        {
            **shard(i, **where),
            "scene_id": ids(i, **where)["scene_id"],
            "recipe_id": generated_id(i, **where),
            "guard": "blocklist",
            "category": "violence",
            "reason": "made up",
        }
        for i in indices
    ]
    return _frame(records.BLOCKED, rows)


def lineage(indices: range, **where: str) -> pl.DataFrame:
    """Rows of `records.LINEAGE` of `clips`, which are sketches."""
    made = clips(indices, **where).with_columns(
        tier=pl.lit("sketch"), sketch_recipe_id=pl.lit(None, pl.String)
    )
    return made.select(list(records.LINEAGE.columns))


def wave_tables(
    indices: range,
    *,
    rejected: tuple[int, ...] = (),
    duplicates: tuple[int, ...] = (),
    **where: str,
) -> dict[str, pl.DataFrame]:
    """All tables of one small wave, by the names that `project_wave` takes."""
    return {
        "prompts": prompts(indices, **where),
        "clips": clips(indices, **where),
        "signals": signals(indices, rejected=rejected, **where),
        "vectors": vectors(indices, **where),
        "dedup": dedup(indices, duplicates=duplicates, **where),
        "superseded": records.SUPERSEDED.empty(),
        "failures": records.FAILURES.empty(),
        "receipts": receipts(indices, **where),
    }


def _prompt(index: int, **where: str) -> dict[str, Any]:
    at = shard(index, **where)
    scene = make_scene(at["institution"], city=at["city"], seed=index)
    return {
        **at,
        **_pick(index, "scene_id", "recipe_id", **where),
        "recipe": json.dumps({"scene": asdict(scene)}),
        "prose": f"Prose {index}",
        "cosmos3": "{}",
        "caption": f"Caption {index}",
    }


def _clip(index: int, **where: str) -> dict[str, Any]:
    at = shard(index, **where)
    pack_sha256 = _hex(f"pack {at['wave']}/{at['city']}", 64)
    recipe_id = ids(index, **where)["recipe_id"]
    members = [
        (f"{recipe_id}.poster.png", 512, POSTER_BYTES),
        (f"{recipe_id}.rgb.mp4", 1536, RGB_BYTES),
    ]
    start = index * 8192
    return {
        **at,
        **ids(index, **where),
        "generator": "procedural",
        "generator_version": "1",
        "pack_key": f"packs/{at['wave']}/{at['city']}/{pack_sha256}.tar",
        "members": [
            {"name": name, "offset": start + offset, "size_bytes": size, "sha256": _hex(name, 64)}
            for name, offset, size in members
        ],
        "num_frames": 48,
        "width_px": 256,
        "height_px": 144,
        "rate_fps": 24,
        "duration_s": 2.0,
        "size_bytes": RGB_BYTES + POSTER_BYTES,
    }


def _signal(index: int, accepted: bool, **where: str) -> dict[str, Any]:
    return {
        **shard(index, **where),
        **_pick(index, "recipe_id", "content_sha256", **where),
        "num_decoded_frames": 48,
        "motion_mean_px": 1.5,
        "motion_still_share": 0.0,
        "sharpness": 0.02,
        "exposure_mean": 0.4,
        "exposure_dark_share": 0.1,
        "exposure_bright_share": 0.0,
        "num_cuts": 0,
        "phash": [index, 1, 2, 3],
        "accepted": accepted,
        "reason": "" if accepted else "too dark",
    }


def _vector(index: int, **where: str) -> dict[str, Any]:
    return {
        **shard(index, **where),
        **_pick(index, "recipe_id", "content_sha256", **where),
        "model_id": "starter",
        "vector": [float(index + k) / 16 for k in range(8)],
    }


def _dedup(index: int, duplicate_of: str | None, **where: str) -> dict[str, Any]:
    repeats = duplicate_of is not None
    return {
        **shard(index, **where),
        **_pick(index, "recipe_id", "content_sha256", **where),
        "status": "duplicate" if repeats else "unique",
        "duplicate_of": duplicate_of,
        "kind": "semantic" if repeats else None,
        "similarity": 0.99 if repeats else None,
        "epsilon": 0.03,
        "model_id": "starter",
    }


def _receipt(index: int, **where: str) -> dict[str, Any]:
    return {
        "receipt_id": _hex(f"receipt {where} {index}", 32),
        **shard(index, **where),
        **_pick(index, "recipe_id", **where),
        "step": "render",
        "run_id": "run",
        "host": "host",
        "finished_at": datetime(2026, 5, 14, 12, tzinfo=UTC),
        "cpu_s": 2.0,
        "gpu_s": 0.0,
        "peak_rss_mb": 300.0,
        "resumed": False,
        "guardrail": "none",
        **dict.fromkeys(records.GPU_COLUMNS),
    }


def _generation(index: int, **where: str) -> dict[str, Any]:
    return {
        **shard(index, **where),
        "scene_id": ids(index, **where)["scene_id"],
        "recipe_id": generated_id(index, **where),
        "model": "Cosmos-Predict2-2B-Video2World",
        "revision": "made up",
        "checkpoint": "",
        "tier": "draft",
        "profile": "fast",
        "num_steps": 35,
        "guidance": 7.0,
        "sampler": "flow_euler",
        "seed": index,
        "batch_size": 1,
        "prompt_form": "prose",
        "prompt": f"Prose {index}",
        "upsampled_prompt": "",
        "negative_prompt": "",
        "control": "first_frames",
        "sketch_recipe_id": ids(index, **where)["recipe_id"],
        "draft_recipe_id": None,
        "recipe": "{}",
    }


def _pick(index: int, *names: str, **where: str) -> dict[str, str]:
    known = ids(index, **where)
    return {name: known[name] for name in names}


def _frame(table: records.Table, rows: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=dict(table.columns))


def _hex(name: str, digits: int) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:digits]
