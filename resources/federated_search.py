"""One search over all sites: the query goes out, ids and scores come back."""

import queue
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from resources.clip_index import ClipIndex
from resources.federation import Federation
from resources.query_log import QueryLog
from worldloop.errors import StoreError, WorldloopError
from worldloop.federated_results import OPEN_COLUMNS, FederatedResults, merged
from worldloop.index_rows import INDEX_COLUMNS

_SHOWN = tuple(name for name in INDEX_COLUMNS if name != "vector")


def search_everywhere(
    federation: Federation,
    vector: Sequence[float] | NDArray[np.float32],
    *,
    limit: int,
    model_id: str,
    where: str | None = None,
    sites: Sequence[str] | None = None,
    asker: str | None = None,
    timeout_s: float = 10.0,
    query_log: QueryLog | None = None,
) -> FederatedResults:
    """The clips nearest to a vector, at every site that answers in time.

    Each site is asked at the same moment, in a thread of its own. The filter is applied at the
    site; captions and addresses of clips are asked of the asker's own site only.

    Args:
        federation: All sites.
        vector: Of the model `model_id`.
        limit: Rows at most.
        model_id: What made `vector`; only its clips are compared.
        where: SQL condition on `INDEX_COLUMNS`.
        sites: Names of the sites to ask; all when not given.
        asker: The site that asks; the coordinator when not given.
        timeout_s: A site that takes longer is named in `missing`.
        query_log: If given, each site's answer is sampled into it.

    Returns:
        The merged rows; `missing` names the sites that did not answer and says why.

    Raises:
        UnknownKeyError: If a site is not of this federation.
        MalformedRecordError: If the condition cannot be read; every site would say the same.
    """
    own = asker or federation.coordinator
    names = [federation.site(name).name for name in sites or federation.names]
    query = np.asarray(vector, np.float32)
    answers: queue.SimpleQueue[_Answer] = queue.SimpleQueue()

    def ask(name: str) -> None:
        columns = _SHOWN if name == own else OPEN_COLUMNS
        answers.put(_ask(federation, name, query, limit, model_id, where, columns))

    for name in names:  # daemons: a site that hangs must not keep the process alive
        threading.Thread(target=ask, args=(name,), daemon=True).start()
    found = _collected(answers, len(names), timeout_s)
    if query_log is not None:
        for answer in found.values():
            if answer.error is None:
                query_log.record(
                    answer.site,
                    vector=query,
                    model_id=model_id,
                    condition=where,
                    num_wanted=limit,
                    num_found=answer.rows.height,
                    took_ms=answer.took_ms,
                )
    return _results(names, found, limit=limit, timeout_s=timeout_s)


class _Answer(NamedTuple):
    site: str
    rows: pl.DataFrame
    took_ms: float
    error: WorldloopError | None = None


def _ask(
    federation: Federation,
    name: str,
    query: NDArray[np.float32],
    limit: int,
    model_id: str,
    where: str | None,
    columns: tuple[str, ...],
) -> _Answer:
    started = time.perf_counter()
    try:
        index = ClipIndex.of_store(federation.store(name))
        rows = index.search(query, limit=limit, model_id=model_id, where=where, columns=columns)
    except WorldloopError as error:
        return _Answer(name, pl.DataFrame(), _ms_since(started), error)
    except Exception as error:  # noqa: BLE001 - outermost loop of a thread: it must give an answer
        unforeseen = StoreError(f"{name!r} failed: {str(error)[:200]}. Expected an answer.")
        return _Answer(name, pl.DataFrame(), _ms_since(started), unforeseen)
    return _Answer(name, rows, _ms_since(started))


def _collected(
    answers: "queue.SimpleQueue[_Answer]", num_asked: int, timeout_s: float
) -> dict[str, _Answer]:
    """What comes in before the time is over."""
    found: dict[str, _Answer] = {}
    until = time.monotonic() + timeout_s
    while len(found) < num_asked:
        try:
            answer = answers.get(timeout=max(until - time.monotonic(), 0.0))
        except queue.Empty:
            break
        found[answer.site] = answer
    return found


def _results(
    names: Sequence[str], found: dict[str, _Answer], *, limit: int, timeout_s: float
) -> FederatedResults:
    missing: dict[str, str] = {}
    for name in names:
        if name not in found:
            missing[name] = f"no answer within {timeout_s:g} s"
            continue
        error = found[name].error
        if error is not None and not isinstance(error, StoreError):
            raise error
        if error is not None:
            missing[name] = str(error)
    answered = {name: found[name] for name in names if name not in missing}
    rows = merged({n: a.rows for n, a in answered.items()}, columns=_SHOWN, limit=limit)
    return FederatedResults(rows, {n: a.took_ms for n, a in answered.items()}, missing)


def _ms_since(started: float) -> float:
    return (time.perf_counter() - started) * 1000
