"""Which index a site's clips should have: decided from what was measured, and nothing else.

Measuring is in resources/index_advisor.py. Here are the candidates, the targets, and the rules:
the cheapest index that meets both targets wins, and what stands is left alone while it meets them.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

ScalarKind = Literal["none", "bitmap", "btree", "label_list"]

_EXACT_ROWS = 20_000  # so many vectors are compared one by one in a few milliseconds
_EXACT_MATCHES = 1_000  # of a filter: scattered ones take 25 ms to read at a million rows
_NARROW = 0.1  # share of the rows that a filter leaves, from which on more are compared exactly
_NARROW_REFINE = 1.5  # recall 0.975 -> 0.990 with 10,000 of 200,000 rows, in the same CPU time
_ROWS_OF_PARTITION = 4_096
_GROWTH = 1.5  # an index is looked at again when the table has grown so much since
_SLACK = 0.02  # of recall and, as a share, of latency: what stands may miss its target by this
_FEW_VALUES = 1_000  # distinct values up to which a bitmap is the smaller index
_TEXT_LITERAL = re.compile(r"'(?:[^']|'')*'")
_WORDS_OF = re.compile(r"\bcaption\b", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")


@dataclass(frozen=True)
class Targets:
    """What a search must reach.

    Attributes:
        recall: Share of the true ten nearest clips that come back.
        p95_ms: Milliseconds within which 95 % of the searches are answered.
    """

    recall: float = 0.98
    p95_ms: float = 50.0

    @property
    def least_recall(self) -> float:
        """Below this an index that stands is replaced."""
        return self.recall - _SLACK


@dataclass(frozen=True)
class VectorIndex:
    """A vector index, and how it is asked.

    Attributes:
        kind: `none` compares with every vector; `ivf_rq` and `ivf_pq` keep compressed ones.
        num_probes: Partitions that a search without a filter opens; 0 without an index.
        refine: A search for ten fetches this many times as many and compares those exactly.
    """

    kind: str = "none"
    num_probes: int = 0
    refine: int = 0


# Cheapest first: what it costs to build and to keep, then what a query costs.
CANDIDATES: tuple[VectorIndex, ...] = (
    VectorIndex(),
    *(VectorIndex("ivf_rq", *how) for how in ((16, 20), (16, 40), (32, 40), (64, 80))),
    *(VectorIndex("ivf_pq", *how) for how in ((16, 20), (32, 40), (64, 80))),
)
KINDS = ("none", "ivf_rq", "ivf_pq")


@dataclass(frozen=True)
class Measured:
    """What was measured of one candidate on one table.

    Attributes:
        index: Which.
        recall: Mean share of the true nearest clips that it found, 0 to 1.
        p50_ms: Median latency of a search.
        p95_ms: Latency that 95 % of the searches stay under.
        num_queries: Queries behind these figures.
        are_real: Whether people asked them; otherwise they are stored vectors, a little moved.
        num_rows: Rows of the table at the time.
    """

    index: VectorIndex
    recall: float
    p50_ms: float
    p95_ms: float
    num_queries: int
    are_real: bool
    num_rows: int

    def meets(self, targets: Targets, *, slack: float = 0.0) -> bool:
        """Whether it reaches both targets, or misses them by no more than `slack`."""
        return self.recall >= targets.recall - slack and self.p95_ms <= targets.p95_ms * (1 + slack)


@dataclass(frozen=True)
class Decision:
    """What should be done.

    Attributes:
        index: The index to have from now on.
        changes: Whether it is another than the present one.
        reason: Why, in a sentence for people.
    """

    index: VectorIndex
    changes: bool
    reason: str


def should_try(present: Measured, *, tried_rows: int, targets: Targets) -> bool:
    """Whether other indices should be built and measured.

    Args:
        present: What was measured of the present index today.
        tried_rows: Rows of the table when others were last tried; 0 if never. Nothing is tried
            again before the table has grown or shrunk by half, so a target that no index can meet
            does not cost a build every night.
        targets: What must be reached.
    """
    if present.meets(targets, slack=_SLACK):
        return False
    return not (tried_rows < present.num_rows * _GROWTH and present.num_rows < tried_rows * _GROWTH)


def decide(
    present: Measured | None, measured: Sequence[Measured], *, targets: Targets
) -> Decision | None:
    """The index to have, given everything that was measured so far.

    Args:
        present: The present index as it does today.
        measured: Candidates that were tried today, in any order.
        targets: What must be reached.

    Returns:
        The decision; None if a cheaper candidate than any that meets the targets was not tried yet
        (`next_kind` names it).
    """
    if present is not None and present.meets(targets, slack=_SLACK):
        return Decision(present.index, False, f"{_said(present)} meets the targets; it stays")
    tried = [*([present] if present is not None else []), *measured]
    for found in sorted(tried, key=lambda one: CANDIDATES.index(_nearest(one.index))):
        if found.meets(targets):
            changes = present is None or found.index != present.index
            return Decision(
                found.index, changes, f"{_said(found)} is the cheapest that meets the targets"
            )
    if next_kind(present, measured) is not None:
        return None
    best = max(tried, key=lambda one: (_misses(one, targets), -one.p95_ms))
    if present is not None and _misses(best, targets) <= _misses(present, targets) + _SLACK:
        best = present
    changes = present is None or best.index != present.index
    return Decision(best.index, changes, f"nothing meets the targets; {_said(best)} comes closest")


def next_kind(present: Measured | None, measured: Sequence[Measured]) -> str | None:
    """The cheapest kind that was not tried yet; None when all were."""
    tried = {one.index.kind for one in measured} | ({present.index.kind} if present else set())
    return next((kind for kind in KINDS if kind not in tried), None)


def settings(kind: str) -> tuple[VectorIndex, ...]:
    """The candidates of one kind: built once, asked in several ways, the cheapest first."""
    return tuple(candidate for candidate in CANDIDATES if candidate.kind == kind)


def partitions(num_rows: int) -> int:
    """Partitions of an IVF index: a power of two, about one for 4,096 rows.

    Fewer and larger ones than the usual square root, because a selective filter makes a search open
    all of them, and opening one costs more than comparing a thousand compressed vectors.

    Example:
        >>> partitions(1_000_000), partitions(5_000)
        (256, 1)
    """
    return 1 << max(round(math.log2(max(num_rows, 1) / _ROWS_OF_PARTITION)), 0)


def with_filter(asked: VectorIndex, *, num_matching: int, num_rows: int) -> VectorIndex:
    """How a search is asked that looks at some of the rows only.

    A filter that leaves one row in a hundred needs a hundred times the partitions to see as many
    rows, and its nearest rows are further apart from the query, where compressed vectors tell them
    apart less well. Few enough rows are compared exactly, which is then quicker too.

    Args:
        asked: How a search without a filter is asked.
        num_matching: Rows that fulfil the filter.
        num_rows: Rows of the table.

    Example:
        >>> with_filter(VectorIndex("ivf_rq", 16, 40), num_matching=10_000, num_rows=100_000)
        VectorIndex(kind='ivf_rq', num_probes=160, refine=60)
    """
    if asked.kind == "none" or num_matching <= _EXACT_MATCHES:
        return VectorIndex()
    probes = math.ceil(asked.num_probes * num_rows / num_matching)
    is_narrow = num_matching <= num_rows * _NARROW
    refine = math.ceil(asked.refine * _NARROW_REFINE) if is_narrow else asked.refine
    return replace(asked, num_probes=min(probes, max(num_rows, 1)), refine=refine)


def refined(asked: VectorIndex, *, limit: int) -> int:
    """How many times its limit a search fetches: a larger one needs less of a margin.

    Example:
        >>> refined(VectorIndex("ivf_rq", 16, 40), limit=10)
        40
        >>> refined(VectorIndex("ivf_rq", 16, 40), limit=100)
        5
    """
    return max(asked.refine * 10 // max(limit, 1), 5)


def is_small(num_rows: int) -> bool:
    """Whether comparing with every vector is quick enough to ask no further."""
    return num_rows <= _EXACT_ROWS


def scalar_kind(num_values: int, *, num_rows: int, is_list: bool = False) -> ScalarKind:
    """The scalar index of a column.

    Args:
        num_values: Distinct values.
        num_rows: Rows of the table.
        is_list: Whether each row has a list of labels.

    Example:
        >>> scalar_kind(12, num_rows=100_000), scalar_kind(99_000, num_rows=100_000)
        ('bitmap', 'btree')
        >>> scalar_kind(12, num_rows=500)
        'none'
    """
    if is_small(num_rows):
        return "none"
    if is_list:
        return "label_list"
    return "bitmap" if num_values <= _FEW_VALUES else "btree"


def scalar_columns(
    conditions: Mapping[str, int], *, known: Sequence[str], always: Sequence[str]
) -> list[str]:
    """Columns that deserve a scalar index.

    Args:
        conditions: Filters that were asked, each with how often.
        known: Columns that may have one.
        always: Columns that have one in any case: keys, and what the pages filter by.

    Returns:
        In the order of `known`; a column counts if at least one in a hundred filters names it.
    """
    total = sum(conditions.values())
    asked = {
        column: sum(n for condition, n in conditions.items() if column in _names(condition))
        for column in known
    }
    return [c for c in known if c in always or (total > 0 and asked[c] * 100 >= total)]


def without_words(condition: str) -> str:
    """A filter as it may be kept: what it asks of captions is free text, and goes.

    Example:
        >>> without_words("city = 'tokyo'")
        "city = 'tokyo'"
        >>> without_words("caption LIKE '%my street%' AND city = 'tokyo'")
        "caption LIKE '?' AND city = '?'"
    """
    return _TEXT_LITERAL.sub("'?'", condition) if _WORDS_OF.search(condition) else condition


def can_be_asked_again(condition: str) -> bool:
    """Whether a kept filter is whole, so that the advisor can measure with it."""
    return "'?'" not in condition


def _names(condition: str) -> set[str]:
    return set(_NAME.findall(_TEXT_LITERAL.sub("", condition)))


def _nearest(index: VectorIndex) -> VectorIndex:
    """The candidate that costs as much; an index built by hand may be none of them."""
    if index in CANDIDATES:
        return index
    same = settings(index.kind) or CANDIDATES[-1:]
    return next((one for one in same if one.num_probes >= index.num_probes), same[-1])


def _misses(found: Measured, targets: Targets) -> float:
    """How far below the targets it stays; 0 is reached, less is worse."""
    late = max(found.p95_ms / targets.p95_ms - 1, 0.0)
    return min(found.recall - targets.recall, 0.0) - min(late, 10.0) / 10


def _said(found: Measured) -> str:
    index = found.index
    how = f" ({index.num_probes} probes, refined {index.refine}x)" if index.num_probes else ""
    return (
        f"{index.kind}{how} with recall {found.recall:.3f} and p95 {found.p95_ms:.1f} ms "
        f"on {found.num_rows} rows"
    )
