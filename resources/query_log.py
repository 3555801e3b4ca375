"""Which searches are asked of a site, sampled; the index advisor measures with them.

The words of a query are never kept: only its vector, the filter without words about captions, and
what came of it. Queries wait in a local file and go into the site's private log in batches, since
one log batch a query would cost more requests than the search itself. What waits when the machine
is lost is lost: a sample has no right to be complete.
"""

import contextlib
import fcntl
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from resources.site_log import SiteLog
from worldloop.index_advisor import without_words
from worldloop.records import QUERIES
from worldloop.seeds import content_id


class QueryLog(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Samples searches; many processes may record at once.

    Attributes:
        folder: Local folder in which queries wait.
        rate: Share of the queries that is kept, 0 to 1; which ones follows from the query itself.
    """

    folder: str = Field(min_length=1)
    rate: float = Field(default=1.0, ge=0.0, le=1.0)

    def record(
        self,
        site: str,
        *,
        vector: Sequence[float] | NDArray[np.float32],
        model_id: str,
        condition: str | None,
        num_wanted: int,
        num_found: int,
        took_ms: float,
    ) -> bool:
        """Keep one query in the local file, if it is among the sampled ones.

        Returns:
            Whether it was kept.
        """
        asked_at = datetime.now(UTC)
        row = {
            "asked_at": asked_at.isoformat(),
            "model_id": model_id,
            "vector": np.asarray(vector, np.float32).tolist(),
            "condition": without_words(condition or ""),
            "num_wanted": num_wanted,
            "num_found": num_found,
            "took_ms": round(took_ms, 3),
        }
        query_id = content_id({"site": site, **row})
        if int(query_id[:8], 16) >= self.rate * 2**32:
            return False
        with self._locked(site), self._waiting(site).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"query_id": query_id, **row}) + "\n")
        return True

    def num_waiting(self, site: str) -> int:
        """Queries of a site that are not in its log yet."""
        with self._locked(site):
            return len(_lines(self._waiting(site)))

    def flush(self, site: str, site_log: SiteLog) -> int:
        """Put the waiting queries of a site into its log.

        Searches go on meanwhile. What goes is set aside first and removed after the log has it; a
        kill in between puts it again, and the log drops what it has.

        Returns:
            Rows that were new in the log.

        Raises:
            StoreError: If the site cannot be reached; the queries go on waiting.
        """
        with self._locked(f"{site}.going"):
            going = Path(self.folder) / f"{site}.going.jsonl"
            with self._locked(site):
                _move_lines(self._waiting(site), going)
            lines = _lines(going)
            added = site_log.append("queries", _rows(lines)) if lines else 0
            going.unlink(missing_ok=True)
        return added

    def _waiting(self, site: str) -> Path:
        return Path(self.folder) / f"{site}.jsonl"

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        Path(self.folder).mkdir(parents=True, exist_ok=True)
        with (Path(self.folder) / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _lines(path: Path) -> list[str]:
    """Whole lines; the last one of a killed writer may be cut short."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [line for line in text.split("\n")[:-1] if line.endswith("}")]


def _move_lines(waiting: Path, going: Path) -> None:
    """Put the lines of one file behind those of another, which a failed flush may have left."""
    lines = _lines(waiting)
    if lines:
        with going.open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
    waiting.unlink(missing_ok=True)


def _rows(lines: Sequence[str]) -> pl.DataFrame:
    records = [json.loads(line) for line in lines]
    rows = pl.DataFrame(records, schema_overrides={"vector": pl.List(pl.Float32)})
    moments = pl.col("asked_at").str.to_datetime(time_unit="us", time_zone="UTC")
    return QUERIES.conform(rows.with_columns(moments))
