"""A site's released clips as folders that training and measuring read, in the layout of `gpu_jobs.posttrain`.

Two folders per site, kept over rounds: `train` and `held_out`. A clip is fetched once; what is no
longer wanted, taken back included, goes, with what was encoded from it. Videos come from the packs in
the site's own store and captions from its own private log; nothing of either leaves the site.
"""

import fcntl
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from gpu_jobs.posttrain.spec import FootageClip
from resources.federation import Federation
from resources.site_store import SiteStore
from resources.store_refusals import MissingObjectError
from resources.tables import read
from worldloop.errors import BudgetExceededError, StoreError
from worldloop.layout import manifest_key
from worldloop.packs import ERASED
from worldloop.records import MANIFEST
from worldloop.whole_files import write_whole

TRAIN, HELD_OUT = "train", "held_out"
CACHE = "cache"
VIDEO_NAME = "rgb.mp4"
_CLIPS_NAME = "clips.jsonl"
_IN_USE = ".in_use.lock"  # held while a trainer reads what was staged
_CONCURRENCY = 16
_MB = 1_000_000

Text = Literal["caption", "prose"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StagedFootage:
    """What a folder holds now.

    Attributes:
        folder: `videos/`, `metas/` and `clips.jsonl`.
        cache_dir: Where what is encoded from it is kept, over rounds.
        num_clips: Clips in it.
        num_new: Clips that were fetched now.
        num_removed: Clips that went now.
        num_lost: Released clips whose pack is gone (retired); they are left out.
        size_mb: Of the videos.
        duration_s: Seconds of footage.
        num_by_city: Clips of each city.
    """

    folder: Path
    cache_dir: Path
    num_clips: int
    num_new: int
    num_removed: int
    num_lost: int
    size_mb: float
    duration_s: float
    num_by_city: Mapping[str, int]


@dataclass(frozen=True)
class SiteFootage:
    """The folders of one site on this machine.

    Attributes:
        federation: All sites; the manifests of releases are at its coordinator.
        site: Whose clips.
        root: Folder of `train/`, `held_out/` and `cache/`, on a disk of the site's own.
        max_mb: Most that the videos of one folder may take.
        text: Which words go with a clip.
    """

    federation: Federation
    site: str
    root: Path
    max_mb: float = 20_000.0
    text: Text = "caption"

    @contextmanager
    def in_use(self, tell: Callable[[str], object] = log.info) -> Iterator[None]:
        """Keep the folders as they are staged; another round that wants other clips of the site waits.

        The lock belongs to the open file, so a killed process gives it back at once.

        Args:
            tell: Takes one line if there is something to wait for.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / _IN_USE).open("a") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                tell(f"Waiting until another round at {self.site} is done with its footage.")
                fcntl.flock(held, fcntl.LOCK_EX)
            yield

    def stage_train(
        self, waves: Iterable[str], *, held_out_cities: Collection[str], max_clips: int = 0
    ) -> StagedFootage:
        """The site's clips of some releases, but for those of held-out cities.

        Args:
            waves: Released waves.
            held_out_cities: Their clips stay out.
            max_clips: So many, evenly spaced; 0: all.

        Raises:
            BudgetExceededError: If they take more room than they may, or than there is.
            StoreError: If a release or a pack cannot be read.
        """
        return self.stage(TRAIN, waves, exclude_cities=held_out_cities, max_clips=max_clips)

    def stage_held_out(
        self, waves: Iterable[str], *, held_out_cities: Collection[str], max_clips: int = 0
    ) -> StagedFootage:
        """The site's clips of held-out cities alone; see `stage_train`. No cities: no clips."""
        return self.stage(HELD_OUT, waves, cities=held_out_cities, max_clips=max_clips)

    def stage(
        self,
        name: str,
        waves: Iterable[str],
        *,
        cities: Collection[str] | None = None,
        exclude_cities: Collection[str] = (),
        max_clips: int = 0,
    ) -> StagedFootage:
        """Bring a folder in line with releases; a second call finds everything there.

        Args:
            name: Of the folder in `root`.
            waves: Released waves.
            cities: Only clips of these; None: of all.
            exclude_cities: No clips of these.
            max_clips: So many, evenly spaced in order of their ids; 0: all.

        Raises:
            BudgetExceededError: If they take more room than they may, or than there is.
            StoreError: If a release or a pack cannot be read.
        """
        wanted = self._released(list(waves))
        if cities is not None:
            wanted = wanted.filter(pl.col("city").is_in(sorted(cities)))
        wanted = wanted.filter(~pl.col("city").is_in(sorted(exclude_cities)))
        if 0 < max_clips < wanted.height:
            spaced = np.linspace(0, wanted.height - 1, max_clips).round().astype(int)
            wanted = wanted[spaced.tolist()]
        folder = _Folder(self.root / name, self.root / CACHE)
        with folder.alone():
            return folder.bring_in_line(wanted, self.federation.store(self.site), self.max_mb)

    def _released(self, waves: list[str]) -> pl.DataFrame:
        """One row a clip that this site may train on, in order of their ids: place, pack, member, words."""
        store = self.federation.store(self.federation.coordinator)
        manifest = pl.concat(
            [MANIFEST.empty(), *(read(store, MANIFEST, manifest_key(wave)) for wave in waves)]
        ).filter(pl.col("site") == self.site)
        own = self.federation.view(self.site).log
        where = ["recipe_id", "pack_key", "members", "duration_s"]
        words = own.read("captions", waves=waves).select("recipe_id", text=pl.col(self.text))
        return (
            manifest.select("recipe_id", "city", "institution", "caption")
            .unique("recipe_id", keep="first", maintain_order=True)
            # what was taken back is in the log no more
            .join(own.read("clips", waves=waves).select(where), on="recipe_id")
            .join(words.unique("recipe_id", keep="first"), on="recipe_id", how="left")
            .with_columns(text=pl.coalesce("text", "caption"))
            .filter(pl.col("text") != "")
            .sort("recipe_id")
        )


@dataclass(frozen=True)
class _Video:
    """Where a clip's video lies in a pack."""

    facts: FootageClip
    text: str
    pack_key: str
    offset: int
    size_bytes: int
    sha256: str
    duration_s: float


@dataclass(frozen=True)
class _Folder:
    """One staged folder."""

    path: Path
    cache_dir: Path

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Whoever stages the same folder waits."""
        self.path.mkdir(parents=True, exist_ok=True)
        with self.path.with_name(f".{self.path.name}.lock").open("a") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            yield

    def bring_in_line(self, wanted: pl.DataFrame, store: SiteStore, max_mb: float) -> StagedFootage:
        """Remove, fetch, and say what there is; `clips.jsonl` is written last."""
        videos = {video.facts.name: video for video in map(_video_of, wanted.iter_rows(named=True))}
        for leftover in self.path.glob("*/.*.partial"):  # of a killed call
            leftover.unlink()
        num_removed = self._remove(set(videos))
        missing = [video for video in videos.values() if not self._has(video)]
        self._check_room(videos, missing, max_mb)
        with ThreadPoolExecutor(_CONCURRENCY) as pool:
            fetched = dict(
                zip(missing, pool.map(lambda each: self._fetch(store, each), missing), strict=True)
            )
        lost = [video for video, there in fetched.items() if not there]
        for video in lost:
            del videos[video.facts.name]
        self._write_texts(videos)
        cities = [video.facts.city for video in videos.values()]
        return StagedFootage(
            folder=self.path,
            cache_dir=self.cache_dir,
            num_clips=len(videos),
            num_new=len(missing) - len(lost),
            num_removed=num_removed,
            num_lost=len(lost),
            size_mb=round(sum(video.size_bytes for video in videos.values()) / _MB, 3),
            duration_s=round(sum(video.duration_s for video in videos.values()), 3),
            num_by_city={city: cities.count(city) for city in sorted(set(cities))},
        )

    def _remove(self, wanted: Collection[str]) -> int:
        """Remove clips that are not wanted, and what was encoded from their bytes and words."""
        gone = [path for path in (self.path / "videos").glob("*.mp4") if path.stem not in wanted]
        kept = {self._text(name) for name in wanted}
        for path in gone:
            digests = [hashlib.sha256(path.read_bytes()).hexdigest()]
            text = self._text(path.stem)
            if text and text not in kept:
                digests.append(hashlib.sha256(text.encode()).hexdigest())
            for digest in digests:
                for encoded in self.cache_dir.glob(f"*/*/{digest}.*"):
                    encoded.unlink(missing_ok=True)
            (self.path / "metas" / f"{path.stem}.txt").unlink(missing_ok=True)
            path.unlink()  # last, so that a killed call finds it again
        return len(gone)

    def _has(self, video: _Video) -> bool:
        path = self._video_path(video)
        return path.is_file() and path.stat().st_size == video.size_bytes

    def _check_room(
        self, videos: Mapping[str, _Video], missing: list[_Video], max_mb: float
    ) -> None:
        needed_mb = sum(video.size_bytes for video in videos.values()) / _MB
        if needed_mb > max_mb:
            raise BudgetExceededError(
                f"The {len(videos)} clips for {str(self.path)!r} take {needed_mb:.1f} MB; expected at most "
                f"{max_mb:.1f} MB. Train on fewer clips (max_clips), or on fewer waves."
            )
        more_mb = sum(video.size_bytes for video in missing) / _MB
        free_mb = shutil.disk_usage(self.path).free / _MB
        if more_mb > free_mb:
            raise BudgetExceededError(
                f"{len(missing)} clips to fetch take {more_mb:.1f} MB; the disk of {str(self.path)!r} has "
                f"{free_mb:.1f} MB free. Free some space (`worldloop gc --dry-run` shows what would go)."
            )

    def _fetch(self, store: SiteStore, video: _Video) -> bool:
        """Bring a video; whether it is there. Retired and erased ones are not.

        Raises:
            StoreError: If the pack's bytes have changed.
        """
        try:
            content = store.get_range(video.pack_key, video.offset, video.size_bytes)
        except MissingObjectError:
            self._say_lost(video, "its pack is gone")
            return False
        if hashlib.sha256(content).hexdigest() == video.sha256:
            write_whole(self._video_path(video), content)
            return True
        if content.startswith(ERASED[: video.size_bytes]):
            self._say_lost(video, "it was taken back")
            return False
        raise StoreError(
            f"{video.facts.name} in {video.pack_key!r} has other bytes than its clip was logged with; expected "
            f"sha256 {video.sha256[:12]}... `worldloop catalog repair` brings packs back from the backup."
        )

    def _say_lost(self, video: _Video, reason: str) -> None:
        log.warning(
            json.dumps(
                {"event": "clip_not_staged", "recipe_id": video.facts.name, "reason": reason}
            )
        )

    def _write_texts(self, videos: Mapping[str, _Video]) -> None:
        for name, video in videos.items():
            if self._text(name) != video.text:
                write_whole(self.path / "metas" / f"{name}.txt", video.text.encode())
        lines = [json.dumps(asdict(video.facts), sort_keys=True) for video in videos.values()]
        write_whole(self.path / _CLIPS_NAME, "".join(f"{line}\n" for line in lines).encode())

    def _text(self, name: str) -> str:
        try:
            return (self.path / "metas" / f"{name}.txt").read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""

    def _video_path(self, video: _Video) -> Path:
        return self.path / "videos" / f"{video.facts.name}.mp4"


def _video_of(row: Mapping[str, Any]) -> _Video:
    member = next(each for each in row["members"] if each["name"].endswith(f".{VIDEO_NAME}"))
    recipe_id = row["recipe_id"]
    return _Video(
        facts=FootageClip(recipe_id, recipe_id, row["city"], row["institution"]),
        text=row["text"],
        pack_key=row["pack_key"],
        offset=member["offset"],
        size_bytes=member["size_bytes"],
        sha256=member["sha256"],
        duration_s=row["duration_s"],
    )
