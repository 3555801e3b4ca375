"""Search by words: the query becomes a vector in a job of its own, the Lance tables answer."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from gpu_jobs.embed_clips.spec import EmbedClipsSpec
from orchestration.deployments import federation, resources
from orchestration.preview import run_by_hand
from resources.federated_search import search_everywhere
from resources.federation import Federation
from resources.query_log import QueryLog
from worldloop.errors import UnknownKeyError
from worldloop.federated_results import FederatedResults

EVERY_SITE = "all"


def find_clips(text: str, *, limit: int, where: str | None = None) -> pl.DataFrame:
    """The accepted clips of this machine's site that look most like a text; captions take no part.

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
    index = kit["clip_index"]
    if index.count() == 0:
        everything = kit["federation"]
        is_alone = everything.members == [everything.coordinator]
        remedy = (
            "none in the index yet: `make run` makes some"
            if is_alone
            else "none of this machine's site: `worldloop search --site all` asks every site"
        )
        raise UnknownKeyError("clip", text, [remedy])
    vector, model_id = _embedded(text, kit)
    condition = _of_accepted(where)
    started = time.perf_counter()
    found: pl.DataFrame = index.search(vector, limit=limit, where=condition, model_id=model_id)
    query_log().record(
        "local",
        vector=vector,
        model_id=model_id,
        condition=condition,
        num_wanted=limit,
        num_found=found.height,
        took_ms=(time.perf_counter() - started) * 1000,
    )
    return found


def find_captions(words: str, *, limit: int, where: str | None = None) -> pl.DataFrame:
    """The accepted clips of this machine's site whose captions fit some words best.

    Args:
        words: Free words; stems count, the rare ones most (BM25).
        limit: Rows at most.
        where: SQL filter over the index columns; accepted clips only unless it names `status`.

    Returns:
        Index rows with `score`, best first.

    Raises:
        UnknownKeyError: If the site has no clips yet.
    """
    index = resources()["clip_index"]
    models = index.models()
    if not models:
        raise UnknownKeyError("clip", words, ["none in the index yet: `make run` makes some"])
    largest = max(models, key=lambda model_id: index.count(model_id=model_id))
    found: pl.DataFrame = index.find_words(
        words, limit=limit, model_id=largest, where=_of_accepted(where)
    )
    return found


def find_clips_everywhere(
    text: str,
    *,
    federation: Federation,
    limit: int,
    where: str | None = None,
    site: str = EVERY_SITE,
    timeout_s: float = 10.0,
) -> FederatedResults:
    """The accepted clips of one site or of all that look most like a text.

    Args:
        text: Free words; they stay here, the sites get the vector.
        federation: All sites.
        limit: Rows at most.
        where: SQL filter over the index columns; accepted clips only unless it names `status`.
        site: Name of a site, or `all`.
        timeout_s: A site that takes longer is named in `missing`.

    Returns:
        The rows, and the sites that did not answer.

    Raises:
        UnknownKeyError: If there is no such site.
    """
    names = federation.names if site == EVERY_SITE else [federation.site(site).name]
    vector, model_id = _embedded(text, resources())
    return search_everywhere(
        federation,
        vector,
        limit=limit,
        model_id=model_id,
        where=_of_accepted(where),
        sites=names,
        timeout_s=timeout_s,
        query_log=query_log(),
    )


def partial_answer(found: FederatedResults) -> str:
    """What to tell people when sites are missing; empty if all answered.

    Example:
        >>> found = FederatedResults(pl.DataFrame(), {"lima": 3.0}, {"oslo": "no answer"})
        >>> print(partial_answer(found))
        1 of 2 sites answered; their clips alone are shown.
          oslo: no answer
    """
    if found.is_complete:
        return ""
    num_asked = len(found.took_ms) + len(found.missing)
    reasons = "".join(f"\n  {site}: {reason}" for site, reason in found.missing.items())
    return (
        f"{len(found.took_ms)} of {num_asked} sites answered; their clips alone are shown.{reasons}"
    )


def query_log() -> QueryLog:
    """Where this machine's searches wait before they go into the sites' logs."""
    return QueryLog(folder=federation().queries_folder)


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


def _embedded(text: str, kit: dict[str, Any]) -> tuple[Sequence[float], str]:
    """The vector of a text, and what made it."""
    embedder = kit["embedder"]
    spec = EmbedClipsSpec(texts=(text,), model=embedder.name, revision=embedder.revision)
    with tempfile.TemporaryDirectory(prefix="worldloop-search-") as folder:
        report = run_by_hand("embed_clips", asdict(spec), Path(folder))
    return report["text_vectors"][0], str(report["model_id"])


def _of_accepted(where: str | None) -> str:
    accepted = "status = 'accepted'"
    if not where:
        return accepted
    return where if "status" in where else f"({where}) AND {accepted}"
