"""The log of a federation: each city's rows in its home site's log, everything else at the coordinator.

Assets use it as they use the log of one site. Nothing is copied between sites here: what every site
may know travels by replication of the shared logs.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import NoReturn, TypeVar

import polars as pl

from resources.federation import Federation
from resources.site_log import Batch, SiteLog
from worldloop.errors import UnreachableError
from worldloop.logs import decode_positions, encode_positions, log_kind, log_rows

_CITY = "city"
_Found = TypeVar("_Found")


class FederatedLog(SiteLog):
    """Own logs of all sites that cities are at home at; `Federation.federated_log` makes it.

    Every method raises an `UnreachableError` that names the site if one does not answer. Numbers of
    batches belong to one site, so what speaks of them is asked of that site's own log.

    Attributes:
        federation: The sites.
    """

    federation: Federation

    def append(self, kind: str, rows: pl.DataFrame) -> int:
        """Append rows that the logs do not have yet, each at its city's home.

        Nothing is written before every row has a home. After a site did not answer, appending the
        same rows again appends those that are missing.
        """
        log_rows(log_kind(kind), rows)  # refused as a whole, before any site has a part of it
        num_new = 0
        for site, part in self._parts(kind, rows):
            with self._at(site) as log:
                num_new += log.append(kind, part)
        return num_new

    def retract(self, kind: str, ids: Iterable[str], *, reason: str) -> int:
        """Take rows back at every site whose log has them; rows of no city at the coordinator."""
        wanted, has_home = sorted(set(ids)), _CITY in log_kind(kind).table.columns
        num_taken = 0
        for site in self.federation.members if has_home else [self.federation.coordinator]:
            with self._at(site) as log:
                mine = log.has_ids(kind, wanted) if has_home else wanted
                num_taken += log.retract(kind, mine, reason=reason)
        return num_taken

    def read(
        self, kind: str, *, at: str | None = None, waves: Iterable[str] | None = None
    ) -> pl.DataFrame:
        """The rows of a kind that count, of all sites: the coordinator's first, then by site name.

        At a position of one site alone, from before the sites were several, the others had nothing.
        """
        wanted = None if waves is None else sorted(set(waves))
        places: dict[str, str | None] = dict.fromkeys(self.federation.members)
        if at is not None:
            known = decode_positions(at, coordinator=self.federation.coordinator)
            asked = set(known) & set(self.federation.only or known)
            places = {site: known[site] for site in self._in_order(asked)}
        found = [log_kind(kind).format.empty()]
        for site, place in places.items():
            with self._at(site) as log:
                found.append(log.read(kind, at=place, waves=wanted))
        return pl.concat(found).unique("id", keep="first", maintain_order=True)

    def history(self, kind: str) -> pl.DataFrame:
        """Every row that was ever committed at any site, taken back or not."""
        return pl.concat(self._ask_all(lambda log: log.history(kind)))

    def has_ids(self, kind: str, ids: Iterable[str]) -> list[str]:
        """Those of the ids that any site's log has rows of, taken back or not."""
        wanted = list(ids)
        found = self._ask_all(lambda log: log.has_ids(kind, wanted))
        return sorted({each for mine in found for each in mine})

    def position(self) -> str:
        """Where the logs of all sites stand now, as text to keep and to read at."""
        places = self._ask_all(lambda log: log.position())
        return encode_positions(dict(zip(self.federation.members, places, strict=True)))

    def num_batches(self, kind: str) -> int:
        """Committed batches of a kind at all sites."""
        return sum(self._ask_all(lambda log: log.num_batches(kind)))

    def unclaimed(self) -> list[str]:
        """Keys of batches that no claim names, at all sites."""
        return [key for keys in self._ask_all(lambda log: log.unclaimed()) for key in keys]

    def sync(self, kinds: Iterable[str] | None = None) -> int:
        """Fetch what the mirrors of all sites lack."""
        wanted = None if kinds is None else list(kinds)
        return sum(self._ask_all(lambda log: log.sync(wanted)))

    def local_files(self, kind: str) -> list[Path]:
        """Local parquet files of all sites."""
        found = self._ask_all(lambda log: log.local_files(kind))
        return [path for paths in found for path in paths]

    def read_after(
        self, kind: str, seq: int, *, until: int | None = None
    ) -> tuple[pl.DataFrame, int]:
        """Refused: numbers belong to one site."""
        self._refuse()

    def heads(self) -> dict[str, int]:
        """Refused: numbers belong to one site."""
        self._refuse()

    def batch_hashes(self, kind: str, *, after: int = 0) -> list[Batch]:
        """Refused: numbers belong to one site."""
        self._refuse()

    def claimed_at(self, kind: str, seq: int) -> datetime | None:
        """Refused: numbers belong to one site."""
        self._refuse()

    def purge(self, kind: str, ids: Iterable[str]) -> int:
        """Refused: batches belong to one site."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise ValueError(
            f"Numbers of batches belong to one site, and this is the log of {self.federation.members}; "
            "ask Federation.view(site).log."
        )

    def _parts(self, kind: str, rows: pl.DataFrame) -> list[tuple[str, pl.DataFrame]]:
        """Rows by the site that they belong to."""
        if _CITY not in log_kind(kind).table.columns:
            return [(self.federation.coordinator, rows)]
        sites = self.federation.sites
        home = {city: sites.site_of(city).name for city in sorted(set(rows[_CITY]))}
        cities = {s: [c for c in home if home[c] == s] for s in self._in_order(home.values())}
        return [(site, rows.filter(pl.col(_CITY).is_in(mine))) for site, mine in cities.items()]

    def _in_order(self, sites: Iterable[str]) -> list[str]:
        """Names of sites, each once, the coordinator first."""
        return sorted(set(sites), key=lambda name: (name != self.federation.coordinator, name))

    def _ask_all(self, question: Callable[[SiteLog], _Found]) -> list[_Found]:
        """What the log of each member answers."""
        answers = []
        for site in self.federation.members:
            with self._at(site) as log:
                answers.append(question(log))
        return answers

    @contextlib.contextmanager
    def _at(self, site: str) -> Iterator[SiteLog]:
        """A site's own log; what it cannot answer says which site that is."""
        log = self.federation.log(site)
        try:
            yield log.model_copy(update={"checkpoint_every": self.checkpoint_every})
        except UnreachableError as error:
            raise UnreachableError(
                f"The site {site!r} cannot be reached: {error} Its cities' rows stand there alone; "
                "run it again when it is back. What is in the logs already is not written twice."
            ) from error
