"""Rows and files that a projection of a site lacks or has otherwise; the logs make it whole again."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl

from resources.file_seals import changed_files, forget_files
from resources.site_store import SiteStore
from resources.survey import Survey
from worldloop.errors import WorldloopError
from worldloop.logs import log_kind
from worldloop.reconciliation import Finding, Trouble, row_finding

_OLD_FILE = (
    "The newest rows do not need it and were made again; an older version of the table that does "
    "cannot be read any more, and is told of only this once"
)


@dataclass(frozen=True)
class Projected:
    """What a projection shows to the reconciliation.

    Attributes:
        name: `lance`, `iceberg` or the like.
        kinds: Kinds of log rows of which it holds every row that counts.
        ids: Ids of its rows of a kind, as the log forms them.
        heal: Makes it whole for some waves, or anew from the logs if `None` is given.
        scope: `own` if it holds the site's own rows, `all` if those of the replicas too.
        files: Keys of its files, there or not, and whether its newest rows need each. Those that
            only older versions need cannot be mended.
        store: Where its files lie; the site's store if it is `None`.
    """

    name: str
    kinds: Sequence[str]
    ids: Callable[[str], Collection[str]]
    heal: Callable[[frozenset[str] | None], object]
    scope: Literal["own", "all"] = "own"
    files: Callable[[], Mapping[str, bool]] | None = None
    store: SiteStore | None = None


@dataclass(frozen=True)
class ProjectionHoles:
    """Looks over the projections of one site.

    Attributes:
        survey: What was found goes there.
    """

    survey: Survey

    def check_projection(self, projection: Projected) -> None:
        """Rows of the log that a projection lacks, or a projection that cannot be read."""
        before = self._compare(projection)
        if not before:
            return
        if self.survey.repair:
            whole = any("file" in finding.part for finding, _ in before)
            waves = frozenset(wave for _, touched in before for wave in touched)
            try:
                projection.heal(None if whole or not waves else waves)
            except WorldloopError as error:  # e.g. another committer is at work
                self.survey.findings += [finding.unhealed(str(error)) for finding, _ in before]
                return
            if projection.files is not None:
                forget_files(self.survey.view.store, projection.name)
        after = self._compare(projection, count=False) if self.survey.repair else before
        still = {(finding.part, finding.key.split(":")[0]) for finding, _ in after}
        for finding, _ in before:
            if (finding.part, finding.key.split(":")[0]) in still:
                self.survey.findings.append(
                    finding.unhealed(f"Rebuild {projection.name} from the logs")
                )
            elif finding.part == "old file":
                self.survey.findings.append(finding.unhealed(_OLD_FILE))
            else:
                self.survey.findings.append(finding.healed(f"{projection.name} was made again"))

    def _compare(
        self, projection: Projected, *, count: bool = True
    ) -> list[tuple[Finding, list[str]]]:
        """Findings of a projection, each with the waves that it touches."""
        found = self._changed_files(projection)
        for kind in projection.kinds:
            try:
                rows = self._rows(projection, kind)
            except WorldloopError:  # a hole of the log, which stands in the findings
                continue
            if count:
                self.survey.expect(self.survey.origin, projection.name, rows.height)
            where = {"site": self.survey.origin, "projection": projection.name, "of_kind": kind}
            try:
                present = set(projection.ids(kind))
            except WorldloopError as error:
                found.append((_unreadable(projection.name, kind, self.survey.origin, error), []))
                continue
            if finding := row_finding(rows["id"].to_list(), present, **where):
                lacking = rows.filter(~pl.col("id").is_in(list(present)))
                waves = lacking["wave"].unique().to_list() if "wave" in rows.columns else []
                found.append((finding, waves))
        return found

    def _changed_files(self, projection: Projected) -> list[tuple[Finding, list[str]]]:
        if projection.files is None:
            return []
        name, site = projection.name, self.survey.origin
        try:
            keys = projection.files()
            changed = changed_files(
                self.survey.view.store,
                name,
                projection.store or self.survey.view.store,
                keys,
                share=self.survey.deep,
                turn=self.survey.turn,
            )
        except WorldloopError as error:
            return [(_unreadable(name, "files", site, error), [])]
        return [
            (_file_finding(name, site, key, said, is_needed=keys[key]), [])
            for key, said in changed.items()
        ]

    def _rows(self, projection: Projected, kind: str) -> pl.DataFrame:
        logs = [self.survey.view.log]
        if projection.scope == "all" and log_kind(kind).log == "shared":
            logs = list(self.survey.view.logs.values())
        rows = pl.concat([log.read(kind) for log in logs])
        return rows.select([c for c in ("id", "wave") if c in rows.columns])


def _file_finding(projection: str, site: str, key: str, said: str, *, is_needed: bool) -> Finding:
    part = "file" if is_needed else "old file"
    what: Trouble = "missing" if said == "nothing" else "damaged"
    return Finding(site, site, projection, part, what, key, "as it was written", said)


def _unreadable(projection: str, kind: str, site: str, error: WorldloopError) -> Finding:
    said = str(error)[:120]
    return Finding(site, site, projection, "file", "damaged", kind, "a readable table", said)
