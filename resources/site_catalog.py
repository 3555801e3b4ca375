"""The catalog of a site: tables go into the logs once, and out of the logs come the rows of the clip index."""

import json
from collections.abc import Iterable

import polars as pl

from resources.site_log import SiteLog
from worldloop import records
from worldloop.cosmos.tiers import SKETCH
from worldloop.curation.dedup import with_superseded
from worldloop.index_rows import index_rows
from worldloop.logs import log_kind, payload
from worldloop.releases import Release
from worldloop.seeds import canonical_json


def project_wave(
    *,
    site_log: SiteLog,
    prompts: pl.DataFrame,
    clips: pl.DataFrame,
    signals: pl.DataFrame,
    vectors: pl.DataFrame,
    dedup: pl.DataFrame,
    superseded: pl.DataFrame,
    failures: pl.DataFrame,
    receipts: pl.DataFrame,
    generations: pl.DataFrame | None = None,
    blocked: pl.DataFrame | None = None,
) -> dict[str, int]:
    """Append a wave's tables to the logs, which projections then follow.

    Doing it twice, or going on after a kill, gives the same logs.

    Args:
        site_log: The logs.
        prompts: `records.PROMPTS` of the wave.
        clips: `records.CLIPS`.
        signals: `records.SIGNALS`.
        vectors: `records.VECTORS`.
        dedup: `records.DEDUP`.
        superseded: `records.SUPERSEDED`; older clips that became duplicates.
        failures: `records.FAILURES`.
        receipts: `records.RECEIPTS`.
        generations: `records.GENERATIONS`, of the clips of world models.
        blocked: `records.BLOCKED`.

    Returns:
        New log rows by kind.
    """
    made = generations if generations is not None else records.GENERATIONS.empty()
    tables = {
        "scenes": _scenes(prompts),
        "captions": _captions(prompts, clips),
        "clips": clips,
        "failures": failures,
        "receipts": receipts,
        "generations": made,
        "blocked": blocked if blocked is not None else records.BLOCKED.empty(),
        "signals": signals,
        "vectors": vectors,
        "lineage": lineage(clips, made),
        "scores": signals.select(list(records.SCORES.columns)),
        "duplicates": dedup,
        "superseded": superseded,
    }
    return {kind: site_log.append(kind, rows) for kind, rows in tables.items()}


def lineage(clips: pl.DataFrame, generations: pl.DataFrame) -> pl.DataFrame:
    """Rows of `records.LINEAGE`: what of the clips every site may know.

    Args:
        clips: `records.CLIPS`.
        generations: `records.GENERATIONS` of those that a world model made; the others are sketches.
    """
    facts = generations.select("recipe_id", "tier", "sketch_recipe_id")
    rows = clips.join(facts, on="recipe_id", how="left", maintain_order="left")
    return rows.with_columns(pl.col("tier").fill_null(SKETCH)).select(list(records.LINEAGE.columns))


def log_release(site_log: SiteLog, release: Release) -> dict[str, int]:
    """Append a release and its clips to the shared log.

    Returns:
        New log rows by kind.
    """
    return {
        "release_clips": site_log.append("release_clips", release.log_clips()),
        "releases": site_log.append("releases", release.log_row()),
    }


def read_wave(site_log: SiteLog, wave: str, *, at: str | None = None) -> dict[str, pl.DataFrame]:
    """What a wave's release is composed of, as the logs stand at a position.

    Returns:
        clips, signals, dedup, captions, superseded, failures, generations and blocked, as
        `compose_release` takes them.
    """
    return {
        "clips": _table(site_log, "clips", at=at, waves=[wave]),
        "signals": _table(site_log, "signals", at=at, waves=[wave]),
        "captions": _table(site_log, "captions", at=at, waves=[wave]),
        "failures": _table(site_log, "failures", at=at, waves=[wave]),
        "generations": _table(site_log, "generations", at=at, waves=[wave]),
        "blocked": _table(site_log, "blocked", at=at, waves=[wave]),
        "dedup": _table(site_log, "duplicates", at=at),
        "superseded": _table(site_log, "superseded", at=at),
    }


def wave_index_rows(
    site_log: SiteLog, waves: Iterable[str], *, others: Iterable[SiteLog] = ()
) -> pl.DataFrame:
    """Index rows of the clips that a site has of some waves, as the logs stand now.

    Args:
        site_log: The log of the site, whose clips they are.
        waves: Which waves.
        others: Shared logs of other sites: what they decided of duplicates counts too, since a
            clip may repeat one of another site.
    """
    wanted = frozenset(waves)
    clips = _table(site_log, "clips", waves=wanted)
    decisions = with_superseded(
        _of_all("duplicates", site_log, others), _of_all("superseded", site_log, others)
    )
    return index_rows(
        scenes=_scenes_of(site_log, clips, wanted),
        captions=_table(site_log, "captions", waves=wanted),
        clips=clips,
        signals=_table(site_log, "signals", waves=wanted),
        decisions=decisions,
        vectors=_table(site_log, "vectors", waves=wanted),
        generations=_table(site_log, "generations", waves=wanted),
    )


def _table(
    site_log: SiteLog, kind: str, *, at: str | None = None, waves: Iterable[str] | None = None
) -> pl.DataFrame:
    return payload(log_kind(kind), site_log.read(kind, at=at, waves=waves))


def _of_all(kind: str, site_log: SiteLog, others: Iterable[SiteLog]) -> pl.DataFrame:
    """Rows of a shared kind of all logs; the own ones win."""
    rows = pl.concat([_table(log, kind) for log in (site_log, *others)])
    return rows.unique(log_kind(kind).table.key, keep="first", maintain_order=True)


def _captions(prompts: pl.DataFrame, clips: pl.DataFrame) -> pl.DataFrame:
    """Captions of the clips that were made: a sketch and its generated twin share theirs."""
    place = ["wave", "city", "index"]
    texts = prompts.drop("recipe_id").join(
        clips.select(*place, "recipe_id"), on=place, maintain_order="left"
    )
    return texts.select(list(records.CAPTIONS.columns))


def _scenes(prompts: pl.DataFrame) -> pl.DataFrame:
    """The scenes of prompts; several recipes may share one."""
    first = prompts.unique("scene_id", keep="first", maintain_order=True)
    scenes = [canonical_json(json.loads(recipe)["scene"]).decode() for recipe in first["recipe"]]
    return first.with_columns(pl.Series("scene", scenes, pl.String)).select(
        list(records.SCENES.columns)
    )


def _scenes_of(site_log: SiteLog, clips: pl.DataFrame, waves: frozenset[str]) -> pl.DataFrame:
    """Scenes of clips; one that an earlier wave showed first is not among those of its waves."""
    scenes = _table(site_log, "scenes", waves=waves)
    if clips.join(scenes, on="scene_id", how="anti").height:
        scenes = _table(site_log, "scenes")
    return scenes.join(clips, on="scene_id", how="semi")
