"""Packs that the rows of a site name and its store lacks, or has with other bytes."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from resources.backup import kept_key
from resources.log_replicas import read_if_there
from resources.site_store import SiteStore
from resources.survey import Survey
from resources.tables import read_record
from worldloop import layout
from worldloop.errors import WorldloopError
from worldloop.logs import KINDS
from worldloop.reconciliation import Finding, pack_findings, pack_sizes

_PROCEDURAL = "procedural"


@dataclass(frozen=True)
class PackHoles:
    """Looks over the packs of one site.

    Attributes:
        survey: What was found goes there.
        backup: Where lost packs may be; `None` if the site has none, or it does not answer.
    """

    survey: Survey
    backup: SiteStore | None

    def check_packs(self) -> None:
        """Packs that rows name: there, of the right size, and in their turn of the right bytes."""
        rows = self._footage()  # before the packs: a pack stands before its rows
        listed = dict(self.survey.view.store.list(layout.PACKS))
        clips = self._without_retired(rows, listed)
        named = pack_sizes(clips)
        self.survey.expect(self.survey.origin, "packs", len(named))
        due = [k for k in named if k in listed and self.survey.is_due(k)]
        erased = self._erased(named)
        wrong = [key for key in due if not self._is_right(key, erased)]
        for finding in pack_findings(clips, listed, site=self.survey.origin, suspects=wrong):
            self.survey.findings.append(self._mend_pack(finding, clips, erased))

    def _footage(self) -> pl.DataFrame:
        """Pack, members, wave, city and generator of every clip that counts; no rows if unreadable."""
        columns = ["pack_key", "members", "wave", "city", "generator"]
        try:
            clips, lineage = (
                self.survey.view.log.read("clips"),
                self.survey.view.log.read("lineage"),
            )
        except WorldloopError:  # a hole that could not be repaired and stands in the findings
            return KINDS["clips"].table.empty().select(columns)
        only = lineage.join(clips, on="pack_key", how="anti")
        members = pl.lit(None, clips.schema["members"]).alias("members")
        return pl.concat([clips.select(columns), only.with_columns(members).select(columns)])

    def _without_retired(self, clips: pl.DataFrame, listed: Mapping[str, int]) -> pl.DataFrame:
        """Without the clips that render again and whose packs were removed to save disk."""
        keys = [key for key, _ in self.survey.view.store.list(layout.RETIRED)]
        retired = pl.col("wave").is_in([Path(key).stem for key in keys])
        gone = ~pl.col("pack_key").is_in(list(listed))
        return clips.filter(~(retired & gone & (pl.col("generator") == _PROCEDURAL)))

    def _erased(self, packs: Iterable[str]) -> dict[str, str]:
        """Packs in which bytes of clips that were taken back are gone, and their hash since then."""
        listed = {key for key, _ in self.survey.view.store.list(layout.ERASED)}
        marks = {pack: layout.erased_key(pack) for pack in packs}
        return {
            pack: read_record(self.survey.view.store, mark).get("sha256", "")
            for pack, mark in marks.items()
            if mark in listed
        }

    def _is_right(self, key: str, erased: Mapping[str, str]) -> bool:
        """Whether a pack has the hash that its name says, or that it had once clips were erased."""
        content = read_if_there(self.survey.view.store, key)
        return content is None or _sha256(content) == erased.get(key, Path(key).stem)

    def _mend_pack(
        self, finding: Finding, clips: pl.DataFrame, erased: Mapping[str, str]
    ) -> Finding:
        key = finding.key
        sha256 = erased.get(key, Path(key).stem)
        kept = kept_key(key, sha256)
        content = read_if_there(self.backup, kept) if self.backup is not None else None
        if content is not None and _sha256(content) == sha256:
            return self.survey.put(finding, self.survey.view.store, content, "from the backup")
        rows = clips.filter(pl.col("pack_key") == key)
        shards = rows.select(pl.format("{}|{}", "city", "wave")).to_series().unique().sort()
        if set(rows["generator"]) <= {_PROCEDURAL}:
            return finding.unhealed(
                "No place has it, but it renders again, bit for bit, on the kind of device that drew "
                f"it: materialise rendered_clips of {', '.join(shards)}"
            )
        return finding.unhealed(
            "No place has it, and a world model does not make the same bytes twice. Its clips are "
            f"lost: retract them, and generate {', '.join(shards)} in a new wave"
        )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
