"""Lines of checkpoints at work: what their clips show, what is due, and who was told what was decided."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import polars as pl

from resources.checkpoint_registry import CheckpointRegistry, Decision, promoted_in_turn
from resources.round_files import planned_rounds, read_round_plan, released_waves
from resources.site_log import SiteLog
from resources.site_store import SiteStore
from resources.wave_plans import read_plan
from worldloop.cosmos.tiers import SKETCH
from worldloop.federation.comparisons import (
    MIN_PAIRS,
    Due,
    Line,
    ScoredClip,
    adapter_of,
    due_in_line,
    quality,
)
from worldloop.logs import log_kind, payload
from worldloop.records import AUDITS
from worldloop.seeds import content_id
from worldloop.waves import WavePlan

ACTOR = "worldloop"
_KINDS = ("lineage", "scores", "duplicates")
# Of a wave's world model: what does not change how a single clip looks, and the adapter, which is compared.
_NOT_SETTINGS = ("loras", "batch_size", "share", "drafts", "text_guards", "video_guards", "allow_unguarded")  # fmt: skip
_read: dict[
    tuple[str, str], list[ScoredClip]
] = {}  # by store and wave; what a released wave scored never changes


def line_of(model: str) -> str:
    """The line of a model."""
    return model.lower()


def read_line(store: SiteStore, registry: CheckpointRegistry, line: str) -> Line:
    """How a line stands, by its history."""
    history = registry.history(line)
    last = history[-1] if history else None
    shadow = last.shadow if last else ""
    known = shadow and shadow in planned_rounds(store)
    return Line(
        name=line,
        promoted=promoted_in_turn(history),
        shadow=shadow,
        shadow_base=read_round_plan(store, shadow).base.adapter if known else "",
        rolled_back=frozenset(one.round for one in history if one.event == "rolled_back"),
        withdrawn=frozenset(one.round for one in history if one.event == "withdrawn"),
    )


def due(
    store: SiteStore,
    site_log: SiteLog,
    registry: CheckpointRegistry,
    line: str,
    *,
    min_pairs: int = MIN_PAIRS,
) -> Due:
    """What is to be done about a line now.

    Raises:
        UnreachableError: If a site does not answer.
    """
    standing = read_line(store, registry, line)
    if not (standing.main or standing.shadow):
        return due_in_line(standing, [], min_pairs=min_pairs)
    return due_in_line(standing, scored_clips(store, site_log, line), min_pairs=min_pairs)


def carry_out(registry: CheckpointRegistry, line: str, what: Due) -> bool:
    """Do what is due; a repeated call does nothing.

    Returns:
        Whether anything was decided.

    Raises:
        StoreError: If somebody else decided at the same time.
    """
    number = len(registry.history(line))
    if what.action == "roll_back" and registry.main(line):
        registry.roll_back(line, what.reason, of=what.round)
    elif what.action == "withdraw" and registry.shadow(line) == what.round:
        registry.withdraw_shadow(line, reason=what.reason)
    elif what.action == "promote" and registry.shadow(line) == what.round:
        registry.promote(line, what.round, reason=what.reason)
    return len(registry.history(line)) > number


def scored_clips(store: SiteStore, site_log: SiteLog, line: str) -> list[ScoredClip]:
    """Clips that a line's model made of released waves, from plans and the shared logs alone.

    Promoted drafts are left out: what they show was chosen for it. So are clips that could not be made,
    as a machine that fails says nothing of a checkpoint.

    Raises:
        UnreachableError: If a site does not answer.
    """
    plans = {
        wave: read_plan(store, wave)
        for wave in released_waves(store)
        if (store.url, wave) not in _read
    }
    made = [wave for wave, plan in plans.items() if _counts(plan)]
    tables = {
        kind: payload(log_kind(kind), site_log.read(kind, waves=made)) for kind in _KINDS if made
    }
    for wave, plan in plans.items():
        rows = {kind: table.filter(pl.col("wave") == wave) for kind, table in tables.items()}
        _read[store.url, wave] = _scored(plan, rows) if wave in made else []
    found = [each for wave in released_waves(store) for each in _read[store.url, wave]]
    return [one for one in found if one.settings.startswith(f"{line}/")]


def adapter_values(
    store: SiteStore, registry: CheckpointRegistry, model: str, round_key: str, *, weight: float
) -> dict[str, Any]:
    """What asks a wave for a checkpoint: fields of `WavePlanConfig`.

    Args:
        store: The coordinator's.
        registry: Of checkpoints.
        model: Whose line.
        round_key: Which checkpoint.
        weight: How strongly it counts.

    Raises:
        UnknownKeyError: If it is not published.
    """
    base = read_round_plan(store, round_key).base
    folder = registry.local_folder(line_of(model), round_key)
    return {
        "world_model": base.model,
        "revision": base.revision,
        "checkpoint": base.checkpoint,
        "loras": [{"path": str(folder), "weight": weight}],
    }


def audit_rows(line: str, history: Iterable[Decision], *, site: str) -> pl.DataFrame:
    """Decisions about a line as rows of `records.AUDITS`; the same decision gives the same id."""
    rows = [
        {
            "audit_id": content_id({"line": line, "number": number, "at": one.at}),
            "done_at": datetime.fromisoformat(one.at).astimezone(UTC),
            "site": site,
            "actor": ACTOR,
            "action": one.event,
            "of_kind": "checkpoints",
            "of_id": f"{line}/{one.round}",
            "reason": one.reason,
        }
        for number, one in enumerate(history, start=1)
    ]
    return pl.DataFrame(rows, schema=dict(AUDITS.columns))


def untold(log: SiteLog, line: str, history: Sequence[Decision], *, site: str) -> list[Decision]:
    """The decisions that the log has no row of yet."""
    ids = audit_rows(line, history, site=site)["audit_id"].to_list()
    known = set(log.has_ids("audits", ids))
    return [one for one, each in zip(history, ids, strict=True) if each not in known]


def since(history: Sequence[Decision], name: str) -> Decision | None:
    """The decision that made `main` or `shadow` what it is now; None without a shadow.

    Args:
        history: Of a line.
        name: `main` or `shadow`.
    """
    now = getattr(history[-1], name) if history else ""
    found = None
    for one in reversed(history):
        if getattr(one, name) != now:
            break
        found = one
    return found if now or name == "main" else None


def line_table(lines: Mapping[str, Sequence[Decision]]) -> str:
    """What each line uses and tries, since when and why, as a Markdown table."""
    rows = ["| line | is | round | since (UTC) | of the waves | why |"]
    rows.append("| --- | --- | --- | --- | --- | --- |")
    for line, history in lines.items():
        last, shadow = history[-1], since(history, "shadow")
        main = since(history, "main")
        assert main is not None
        share = last.share if shadow else 0.0
        rows.append(_row(line, "main", last.main or "the base alone", main, 1 - share))
        if shadow is not None:
            rows.append(_row(line, "shadow", last.shadow, shadow, share))
    return "\n".join(rows)


def history_table(lines: Mapping[str, Sequence[Decision]], *, num_rows: int = 20) -> str:
    """The newest decisions of all lines, newest first, as a Markdown table."""
    every = [(one.at, line, one) for line, history in lines.items() for one in history]
    newest = sorted(every, key=lambda each: each[:2], reverse=True)[:num_rows]
    rows = [
        "| at (UTC) | line | round | was | main after | why |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    rows += [
        f"| {_moment(at)} | {line} | {one.round} | {one.event} | {one.main or 'the base alone'} | {one.reason or '-'} |"
        for at, line, one in newest
    ]
    return "\n".join(rows)


def _row(line: str, name: str, round_key: str, decision: Decision, share: float) -> str:
    why = f"{decision.event} {decision.round}: {decision.reason or '-'}"
    return f"| {line} | {name} | {round_key} | {_moment(decision.at)} | {share:.0%} | {why} |"


def _moment(text: str) -> str:
    """An ISO time to the minute, with a space and hyphens at which no narrow table breaks it."""
    return text[:16].replace("T", "\u00a0").replace("-", "\u2011")


def _counts(plan: WavePlan) -> bool:
    return plan.world_model is not None and not plan.world_model.drafts


def _scored(plan: WavePlan, rows: Mapping[str, pl.DataFrame]) -> list[ScoredClip]:
    """The generated clips of a wave with their scores beside those of their sketches."""
    model = plan.world_model
    assert model is not None
    values = ("sharpness", "motion_mean_px")
    scores = rows["scores"].select("recipe_id", "accepted", *values)
    is_sketch = pl.col("tier") == SKETCH
    of_sketch = (  # by scene: a clip names its sketch only if it took control from it
        rows["lineage"]
        .filter(is_sketch)
        .join(scores, on="recipe_id")
        .select("index", **{f"sketch_{name}": pl.col(name) for name in values})
    )
    status = rows["duplicates"].select("recipe_id", distinct=pl.col("status") == "unique")
    table = (
        rows["lineage"]
        .filter(~is_sketch)
        .join(scores, on="recipe_id")
        .join(of_sketch, on="index", how="left")
        .join(status, on="recipe_id", how="left")
        .sort("index", "recipe_id")
    )
    settings, adapter = f"{model.generator}/{_settings(plan)}", adapter_of(plan)
    scale = plan.shape.width_px / model.shape.width_px  # motion as a share of the picture's width
    return [
        ScoredClip(
            wave=plan.wave,
            index=row["index"],
            place=f"{row['city']}/{row['institution']}",
            adapter=adapter,
            settings=settings,
            scores=quality(
                accepted=row["accepted"],
                distinct=row["distinct"],
                kept={
                    "sharpness": (row["sharpness"], row["sketch_sharpness"]),
                    "motion": (_times(row["motion_mean_px"], scale), row["sketch_motion_mean_px"]),
                },
            ),
        )
        for row in table.iter_rows(named=True)
    ]


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _settings(plan: WavePlan) -> str:
    record = plan.to_record()
    model = {k: v for k, v in record["world_model"].items() if k not in _NOT_SETTINGS}
    return content_id({"model": model, "shape": record["shape"]})
