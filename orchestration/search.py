"""Search by words: the query becomes a vector in a job of its own, the Lance table answers."""

import tempfile
from dataclasses import asdict
from pathlib import Path

import polars as pl

from gpu_jobs.embed_clips.spec import EmbedClipsSpec
from orchestration.deployments import resources
from orchestration.preview import run_by_hand
from worldloop.errors import UnknownKeyError


def find_clips(text: str, *, limit: int, where: str | None = None) -> pl.DataFrame:
    """The accepted clips that look most like a text; captions take no part.

    Args:
        text: Free words.
        limit: Rows at most.
        where: SQL filter over the index columns; accepted clips only unless it names `status`.

    Returns:
        Index rows with `score`, cosine similarity, best first.

    Raises:
        UnknownKeyError: If the site has no clips yet.
    """
    kit = resources()
    index, embedder = kit["clip_index"], kit["embedder"]
    if index.count() == 0:
        raise UnknownKeyError("clip", text, ["none in the index yet: `make run` makes some"])
    spec = EmbedClipsSpec(texts=(text,), model=embedder.name, revision=embedder.revision)
    with tempfile.TemporaryDirectory(prefix="worldloop-search-") as folder:
        report = run_by_hand("embed_clips", asdict(spec), Path(folder))
    accepted = "status = 'accepted'"
    if where and "status" not in where:
        accepted = f"({where}) AND {accepted}"
    found: pl.DataFrame = index.search(
        report["text_vectors"][0],
        limit=limit,
        where=where if where and "status" in where else accepted,
        model_id=str(report["model_id"]),
    )
    return found


def extract_videos(found: pl.DataFrame, folder: Path) -> list[Path]:
    """Write the mp4 of every row into a folder, one ranged read each."""
    store = resources()["store"]
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for row in found.iter_rows(named=True):
        path = folder / f"{row['city']}-{row['institution']}-{row['recipe_id'][:12]}.mp4"
        path.write_bytes(store.get_range(row["pack_key"], row["rgb_offset"], row["rgb_size_bytes"]))
        paths.append(path)
    return paths
