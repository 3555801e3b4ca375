"""Measures the vector index of a table and its rivals, and gives the table what the advisor decides.

A rival is built on a branch of the table, which shares its files: searches go on with the index
that stands until the new one has been measured as good.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from resources.clip_index import ClipIndex, nearest
from resources.lance_store import lance_errors
from resources.lance_upkeep import TRIAL
from resources.site_view import SiteView
from worldloop.index_advisor import (
    Decision,
    Measured,
    Targets,
    VectorIndex,
    can_be_asked_again,
    decide,
    is_small,
    next_kind,
    partitions,
    scalar_columns,
    scalar_kind,
    settings,
    should_try,
)
from worldloop.index_rows import INDEX_COLUMNS
from worldloop.logs import log_kind, payload
from worldloop.seeds import stream

_NEAREST = 10
_NUM_QUERIES = 60
_LOOKED_AT = 1000  # newest sampled queries
_FEW_REAL = 20  # fewer real queries say too little of the 95th percentile
_MOVED = 0.3  # length of the step away from a stored vector of length one
_WARM_UP = 3
_PATIENCE_MS = 10_000.0  # of one measurement
_SAME = 1e-5  # scores of two searches for the same row differ by less
_ALWAYS_SCALAR = ("recipe_id", "wave", "city", "institution", "status")
_SCALARS = tuple(
    name
    for name in INDEX_COLUMNS
    if name not in ("vector", "caption", "model_id") and not name.endswith(("offset", "bytes"))
)


class Query(NamedTuple):
    """One search to measure with.

    Attributes:
        vector: What is searched for.
        condition: SQL filter; empty for none.
    """

    vector: NDArray[np.float32]
    condition: str = ""


@dataclass(frozen=True)
class Past:
    """What an earlier run found out about a table.

    Attributes:
        present: How its index did; None if it was never measured.
        tried_rows: Rows when other indices were last tried; 0 if never.
        reason: Why it has this index.
    """

    present: Measured | None = None
    tried_rows: int = 0
    reason: str = ""

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Past":
        """What `Advice.record` gave; nothing if it is empty."""
        if not record:
            return cls()
        facts = dict(record)
        index = VectorIndex(facts.pop("kind"), facts.pop("num_probes"), facts.pop("refine"))
        tried_rows, reason = facts.pop("tried_rows"), facts.pop("reason")
        return cls(Measured(index, **facts), tried_rows, reason)


@dataclass(frozen=True)
class Advice:
    """What one run found out and did.

    Attributes:
        present: The index that the table has now, as measured; None for an empty table.
        reason: Why, in a sentence.
        tried_rows: Rows when other indices were last tried; 0 if never.
        changed: Indices that were built, dropped or asked in another way, scalar ones included.
    """

    present: Measured | None
    reason: str
    tried_rows: int
    changed: int

    def record(self) -> dict[str, Any]:
        """What to keep for the next run and for people, as JSON has it."""
        if self.present is None:
            return {}
        found = self.present
        return {
            "kind": found.index.kind,
            "num_probes": found.index.num_probes,
            "refine": found.index.refine,
            "recall": found.recall,
            "p50_ms": found.p50_ms,
            "p95_ms": found.p95_ms,
            "num_queries": found.num_queries,
            "are_real": found.are_real,
            "num_rows": found.num_rows,
            "tried_rows": self.tried_rows,
            "reason": self.reason,
        }


def advise(
    view: SiteView, index: ClipIndex, model_id: str, *, past: Past, targets: Targets
) -> Advice:
    """Measure the present index; if it does not do, try the others and take the cheapest that does.

    Args:
        view: The site, whose log has the sampled queries.
        index: Its tables.
        model_id: Which of them.
        past: What the last run found out.
        targets: What must be reached.
    """
    num_rows = index.count(model_id=model_id)
    if not num_rows:
        return Advice(None, "no clips", 0, 0)
    asked = payload(log_kind("queries"), view.log.read("queries"))
    asked = asked.filter(pl.col("model_id") == model_id)
    changed = _index_scalars(index, model_id, asked, num_rows)
    queries, are_real = sampled(index, model_id, asked)
    trial = _Trial(index, model_id, queries, are_real, num_rows)
    standing = index.vector_index(model_id)
    if index.asked_like(model_id) != standing:  # a kill came between the two
        index.ask_like(model_id, standing)
    present = trial.measure(index.lance_table(model_id), standing)
    if not should_try(present, tried_rows=past.tried_rows, targets=targets):
        reason = past.reason if past.present is not None else ""
        kept = decide(present, [], targets=targets)
        return Advice(present, kept.reason if kept else reason, past.tried_rows, changed)
    decision = trial.compare(present, targets)
    if decision.changes:
        if decision.index.kind == present.index.kind:
            index.ask_like(model_id, decision.index)
        else:
            build(index, model_id, decision.index)
        changed += 1
        present = trial.measure(index.lance_table(model_id), decision.index)
    return Advice(present, decision.reason, num_rows, changed)


def build(index: ClipIndex, model_id: str, wanted: VectorIndex) -> None:
    """Give the table itself this vector index, and let searches ask it so; `none` drops it."""
    with lance_errors(index.uri):
        table = index.lance_table(model_id)
        _build(table, wanted.kind)
    index.ask_like(model_id, wanted)


def sampled(index: ClipIndex, model_id: str, asked: pl.DataFrame) -> tuple[list[Query], bool]:
    """Queries to measure with, and whether people asked them.

    Args:
        index: The tables.
        model_id: Which of them.
        asked: `records.QUERIES` of this model, oldest first.

    Returns:
        The newest real ones if there are enough; otherwise stored vectors, each moved a little in
        a direction that follows from a seed.
    """
    real = [
        Query(np.asarray(row["vector"], np.float32), row["condition"])
        for row in asked.tail(_LOOKED_AT).iter_rows(named=True)
        if can_be_asked_again(row["condition"])
    ]
    with lance_errors(index.uri):
        dataset = index.dataset(model_id)
        num_rows = dataset.count_rows()
        wanted = _FEW_REAL if is_small(num_rows) else _NUM_QUERIES  # each is some requests
        if len(real) >= _FEW_REAL:
            return real[-wanted:], True
        random = stream("index advisor", model_id, num_rows)
        rows = sorted({int(i) for i in random.integers(num_rows, size=wanted)})
        stored = dataset.take(rows, columns=["vector"])["vector"].combine_chunks()
    vectors = np.asarray(stored.values).reshape(len(rows), -1)
    steps = random.standard_normal(vectors.shape).astype(np.float32)
    steps *= _MOVED / np.linalg.norm(steps, axis=1, keepdims=True)
    return [Query(vector) for vector in vectors / _lengths(vectors) + steps], False


class _Trial:
    """Measures indices of one table with the same queries; the true answers are found once."""

    def __init__(
        self,
        index: ClipIndex,
        model_id: str,
        queries: Sequence[Query],
        are_real: bool,
        num_rows: int,
    ) -> None:
        self.index, self.model_id, self.queries = index, model_id, queries
        self.are_real, self.num_rows = are_real, num_rows
        self._true: list[list[float]] | None = None

    def measure(self, table: Any, how: VectorIndex) -> Measured:
        """Recall and latency of a table's index, asked in one way."""
        with lance_errors(self.index.uri):
            if self._true is None:
                self._true = nearest_scores(self.index.dataset(self.model_id), self.queries)
            for query in self.queries[:_WARM_UP]:
                _scores(table, query, how)
            found, took_ms = self._asked(table, how)
        shares = [recall_of(some, true) for some, true in zip(found, self._true, strict=False)]
        return Measured(
            how,
            round(float(np.mean(shares)), 4),
            round(float(np.percentile(took_ms, 50)), 3),
            round(float(np.percentile(took_ms, 95)), 3),
            len(took_ms),
            self.are_real,
            self.num_rows,
        )

    def _asked(self, table: Any, how: VectorIndex) -> tuple[list[list[float]], list[float]]:
        """Scores and milliseconds of each query; of fewer when they are hopelessly slow."""
        found: list[list[float]] = []
        took_ms: list[float] = []
        for query in self.queries:
            started = time.perf_counter()
            found.append(_scores(table, query, how))
            took_ms.append((time.perf_counter() - started) * 1000)
            if len(took_ms) >= _FEW_REAL and sum(took_ms) > _PATIENCE_MS:
                break
        return found, took_ms

    def compare(self, present: Measured, targets: Targets) -> Decision:
        """Try one kind after the other, the cheapest first, until one does or none is left."""
        measured: list[Measured] = []
        main = self.index.lance_table(self.model_id)
        if present.index.kind != "none":  # the same index, asked in other ways, costs no build
            self._try_settings(main, present.index.kind, targets, measured)
        while True:
            decision = decide(present, measured, targets=targets)
            if decision is not None:
                return decision
            kind = next_kind(present, measured)
            assert kind is not None, "decide() decides when nothing is left to try"
            self._try_kind(kind, targets, measured)

    def _try_kind(self, kind: str, targets: Targets, measured: list[Measured]) -> None:
        with lance_errors(self.index.uri):
            main = self.index.lance_table(self.model_id)
            if kind == "none":
                self._try_settings(main, kind, targets, measured)
                return
            trial = main.branches.create(TRIAL)
            try:
                _build(trial, kind)
                self._try_settings(trial, kind, targets, measured)
            finally:
                main.branches.delete(TRIAL)

    def _try_settings(
        self, table: Any, kind: str, targets: Targets, measured: list[Measured]
    ) -> None:
        for how in settings(kind):
            found = self.measure(table, how)
            measured.append(found)
            if found.meets(targets):
                return


def nearest_scores(dataset: Any, queries: Sequence[Query], *, limit: int = 10) -> list[list[float]]:
    """Scores of the rows that are truly nearest, best first, by comparing with every vector.

    Queries with the same condition share one pass over the table.

    Args:
        dataset: The table, as pylance has it.
        queries: What is searched for.
        limit: Scores of each query.
    """
    true: list[list[float]] = [[] for _ in queries]
    for condition in sorted({query.condition for query in queries}):
        places = [i for i, query in enumerate(queries) if query.condition == condition]
        asked = np.stack([queries[i].vector for i in places])
        best = _best_of_all(dataset, asked / _lengths(asked), condition, limit)
        for place, scores in zip(places, best, strict=True):
            true[place] = [float(score) for score in scores if np.isfinite(score)]
    return true


def _best_of_all(
    dataset: Any, asked: NDArray[np.float32], condition: str, limit: int
) -> NDArray[np.float32]:
    """The highest scores, best first, of one pass over the rows that fulfil a condition."""
    best = np.full((len(asked), limit), -np.inf, np.float32)
    for batch in dataset.to_batches(columns=["vector"], filter=condition or None):
        if not batch.num_rows:
            continue
        vectors = batch["vector"].flatten().to_numpy().reshape(batch.num_rows, -1)
        scores = asked @ (vectors / _lengths(vectors)).T
        best = np.partition(np.concatenate([best, scores], axis=1), -limit, axis=1)[:, -limit:]
    return -np.sort(-best, axis=1)


def _lengths(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths: NDArray[np.float32] = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    return lengths


def _build(table: Any, kind: str) -> None:
    from lancedb.index import IvfPq, IvfRq

    if kind == "none":
        for found in table.list_indices():
            if found.columns == ["vector"]:
                table.drop_index(found.name)
        return
    num_partitions = partitions(table.count_rows())
    if kind == "ivf_rq":
        config: Any = IvfRq(distance_type="cosine", num_partitions=num_partitions, sample_rate=64)
    else:
        width = table.schema.field("vector").type.list_size
        config = IvfPq(
            distance_type="cosine",
            num_partitions=num_partitions,
            num_sub_vectors=max(width // 8, 1),
            max_iterations=15,
            sample_rate=64,
        )
    table.create_index("vector", config=config, name="vector_idx", replace=True)


def _index_scalars(index: ClipIndex, model_id: str, asked: pl.DataFrame, num_rows: int) -> int:
    """Scalar indices for keys, and for what people filter by; how many were built."""
    conditions = dict(
        asked.filter(pl.col("condition") != "")["condition"].value_counts().iter_rows()
    )
    wanted = scalar_columns(conditions, known=_SCALARS, always=_ALWAYS_SCALAR)
    with lance_errors(index.uri):
        table = index.lance_table(model_id)
        there = {column for found in table.list_indices() for column in found.columns}
    built = 0
    for column in wanted:
        if column in there or column not in table.schema.names:
            continue
        if scalar_kind(1, num_rows=num_rows) == "none":
            return built
        num_values = index.rows(model_id, columns=[column])[column].n_unique()
        build_scalar(index, model_id, column, scalar_kind(num_values, num_rows=num_rows))
        built += 1
    return built


def build_scalar(index: ClipIndex, model_id: str, column: str, kind: str) -> None:
    """Give a column a scalar index: `bitmap`, `btree` or `label_list`."""
    from lancedb.index import Bitmap, BTree, LabelList

    configs = {"bitmap": Bitmap, "btree": BTree, "label_list": LabelList}
    with lance_errors(index.uri):
        index.lance_table(model_id).create_index(column, config=configs[kind]())


def _scores(table: Any, query: Query, how: VectorIndex) -> list[float]:
    asked = nearest(table, query.vector, how, limit=_NEAREST, where=query.condition)
    found = asked.select(["recipe_id", "_distance"]).to_arrow()
    return [1 - distance for distance in found["_distance"].to_pylist()]


def recall_of(found: Sequence[float], true: Sequence[float]) -> float:
    """Share of the true nearest that were found; of rows with equal scores any will do."""
    if not true:
        return 1.0
    return sum(score >= true[-1] - _SAME for score in found[: len(true)]) / len(true)
