"""What came into a site's logs behind a position, told as clips whose searchable rows may differ."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import polars as pl

from resources.site_log import SiteLog
from resources.site_view import SiteView
from worldloop.logs import log_kind, payload

_OF_CLIPS = ("captions", "clips", "generations", "signals", "vectors")
_OWN = (*_OF_CLIPS, "scenes", "private/retractions")
_EVERYBODYS = ("duplicates", "superseded", "shared/retractions")
_BY_RECIPE = frozenset({*_OF_CLIPS, "duplicates", "superseded"})  # whose ids begin with it


@dataclass(frozen=True)
class Changes:
    """Clips whose rows may be others than before.

    Attributes:
        heads: Where the logs stand now, by site and kind; of batches up to here the rest tells.
        recipes: Those that are the site's own.
        waves: Their waves, each with how many of them it has.
        taken: Recipes of which something was taken back; their rows may have to leave.
        num_batches: Log batches behind this.
    """

    heads: Mapping[str, Mapping[str, int]]
    recipes: frozenset[str]
    waves: Mapping[str, int]
    taken: frozenset[str]
    num_batches: int


def heads_of(view: SiteView) -> dict[str, dict[str, int]]:
    """Newest batch of each kind that searchable rows are made of, by site."""
    found = {}
    for site, log in view.logs.items():
        wanted = (*_OWN, *_EVERYBODYS) if site == view.site.name else _EVERYBODYS
        heads = log.heads()
        found[site] = {kind: heads[kind] for kind in wanted if kind in heads}
    return found


def changes_since(view: SiteView, heads: Mapping[str, Mapping[str, int]]) -> Changes:
    """What came in behind a position.

    Args:
        view: The site.
        heads: Where it was, as `heads_of` says it.
    """
    now = heads_of(view)
    recipes: set[str] = set()
    scenes: set[str] = set()
    taken: set[str] = set()
    num_batches = 0
    for site, kinds in now.items():
        for kind, head in kinds.items():
            before = heads.get(site, {}).get(kind, 0)
            if head <= before:
                continue
            num_batches += head - before
            rows, _ = view.logs[site].read_after(kind, before, until=head)
            some_recipes, some_scenes = _touched_by(kind, rows)
            recipes |= some_recipes
            scenes |= some_scenes
            if kind == "duplicates":
                recipes |= _superseded_by(view, some_recipes)
            if kind.endswith("retractions"):
                taken |= some_recipes
    if not recipes and not scenes:
        return Changes(now, frozenset(), {}, frozenset(), num_batches)
    clips = _own_clips(view.log)
    recipes |= set(clips.filter(pl.col("scene_id").is_in(sorted(scenes)))["recipe_id"])
    waves, own = _waves(clips, recipes)
    return Changes(now, own, waves, frozenset(taken), num_batches)


def own_waves(view: SiteView, recipes: Iterable[str]) -> tuple[dict[str, int], frozenset[str]]:
    """Those of the clips that are the site's own: their waves, each with how many, and they."""
    return _waves(_own_clips(view.log), recipes)


def _touched_by(kind: str, rows: pl.DataFrame) -> tuple[set[str], set[str]]:
    """Recipes and scenes that some new log rows speak of."""
    if kind == "scenes":
        return set(), set(rows["scene_id"])
    if not kind.endswith("retractions"):
        return set(rows["recipe_id"]), set()
    taken = rows.select("of_kind", pl.col("of_id").str.split("/").list.first())
    of_clips = taken.filter(pl.col("of_kind").is_in(sorted(_BY_RECIPE)))
    return set(of_clips["of_id"]), set(taken.filter(pl.col("of_kind") == "scenes")["of_id"])


def _superseded_by(view: SiteView, recipes: set[str]) -> set[str]:
    """Clips of which a log said before that these come first, when these were not decided yet."""
    found: set[str] = set()
    for log in view.logs.values():
        rows = payload(log_kind("superseded"), log.read("superseded"))
        found |= set(rows.filter(pl.col("superseded_by").is_in(sorted(recipes)))["recipe_id"])
    return found


def _own_clips(log: SiteLog) -> pl.DataFrame:
    return log.read("clips").select("recipe_id", "scene_id", "wave")


def _waves(clips: pl.DataFrame, recipes: Iterable[str]) -> tuple[dict[str, int], frozenset[str]]:
    touched = clips.filter(pl.col("recipe_id").is_in(sorted(recipes)))
    waves = touched.group_by("wave").len().sort("wave")
    return dict(waves.iter_rows()), frozenset(touched["recipe_id"])
