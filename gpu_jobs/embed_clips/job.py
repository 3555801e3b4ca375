"""Embeds clips and search texts into one vector space; run as `python -m gpu_jobs.embed_clips.job`."""

import importlib.metadata
import io
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_jobs.common.entry import run_job
from gpu_jobs.embed_clips.spec import EmbedClipsReport, EmbedClipsSpec
from worldloop.curation.frames import read_frames
from worldloop.errors import JobFailedError, WorldloopError

Frames = NDArray[np.uint8]


def embed_clips(spec: EmbedClipsSpec) -> EmbedClipsReport:
    """Embed the clips and texts of a spec.

    Raises:
        JobFailedError: If the model is not here, or more than the agreed share of clips fails.
    """
    from gpu_jobs.embed_clips.model import EmbedModel

    model = EmbedModel.load(spec.model, revision=spec.revision, device=spec.device)
    failures: list[dict[str, Any]] = []
    recipe_ids: list[str] = []
    vectors: list[NDArray[np.float32]] = []
    for names, frames in _batches(spec, failures):
        recipe_ids += names
        vectors.append(model.embed_clips(frames))
    if len(failures) > spec.max_failed_share * len(spec.clips):
        raise JobFailedError(
            f"{len(failures)} of {len(spec.clips)} clips could not be embedded; at most "
            f"{spec.max_failed_share:.0%} may fail. The first: {failures[0]['recipe_id']}, "
            f"{failures[0]['reason']} Render the partition again."
        )
    if spec.clips:
        _write_vectors(Path(spec.vectors_path), recipe_ids, vectors, model.width)
    texts = model.embed_texts(list(spec.texts)).tolist() if spec.texts else []
    return EmbedClipsReport(
        model_id=model.model_id,
        width=model.width,
        num_clips=len(recipe_ids),
        text_vectors=texts,
        failures=failures,
        cpu_s=round(time.process_time(), 3),
        versions={
            name: importlib.metadata.version(name) for name in ("torch", "open_clip_torch", "av")
        },
    )


def _batches(
    spec: EmbedClipsSpec, failures: list[dict[str, Any]]
) -> Iterator[tuple[list[str], list[Frames]]]:
    """Decoded clips, as many as fill a forward pass; the ones that do not decode become failures."""
    names: list[str] = []
    frames: list[Frames] = []
    for clip in spec.clips:
        try:
            decoded = _read_clip(clip, spec.num_frames)
        except (WorldloopError, OSError) as error:
            failures.append(
                {"recipe_id": clip["recipe_id"], "stage": "embed", "reason": str(error)}
            )
            continue
        other_shape = frames and frames[0].shape[1:] != decoded.shape[1:]
        if other_shape or (len(frames) + 1) * spec.num_frames > max(
            spec.batch_size, spec.num_frames
        ):
            yield names, frames
            names, frames = [], []
        names.append(clip["recipe_id"])
        frames.append(decoded)
    if frames:
        yield names, frames


def _read_clip(clip: dict[str, Any], num_frames: int) -> Frames:
    with Path(clip["path"]).open("rb") as pack:
        pack.seek(clip["offset"])
        return read_frames(io.BytesIO(pack.read(clip["size_bytes"])), count=num_frames)


def _write_vectors(
    path: Path, recipe_ids: list[str], vectors: list[NDArray[np.float32]], width: int
) -> None:
    stacked = np.concatenate(vectors) if vectors else np.zeros((0, width), np.float32)
    table = pl.DataFrame(
        {"recipe_id": recipe_ids, "vector": stacked.tolist()},
        schema={"recipe_id": pl.String, "vector": pl.List(pl.Float32)},
    )
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    table.write_parquet(part)
    part.replace(path)


if __name__ == "__main__":
    sys.exit(run_job(EmbedClipsSpec, embed_clips))
