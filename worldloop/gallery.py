"""The gallery: one page over extracted clips that opens from a folder, without server or network.

The page itself is gallery.html beside this module; here the clips are put next to it.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import polars as pl

Media = Literal["rgb", "poster"]
ReadMedia = Callable[[Mapping[str, Any], Media], bytes]

_TEMPLATE = Path(__file__).with_name("gallery.html")
_FACTS = (
    "recipe_id",
    "wave",
    "index",
    "city",
    "institution",
    "weather",
    "daypart",
    "season",
    "generator",
    "status",
    "caption",
    "duration_s",
)
_PICTURES = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"RIFF": ".webp"}


def write_gallery(rows: pl.DataFrame, out_dir: Path, read_media: ReadMedia) -> Path:
    """Write the page and its media; the same rows give the same files.

    Files of clips that are no longer among the rows are deleted from `out_dir/media`.

    Args:
        rows: Rows of the clip index (`index_rows.INDEX_COLUMNS`, the vector may be missing).
        out_dir: Made if it does not exist.
        read_media: Bytes of a row's mp4 (`rgb`) or of its picture (`poster`); a row whose
            `poster_offset` is null has no picture and shows its first frame.

    Returns:
        Path of `index.html`.
    """
    media = out_dir / "media"
    media.mkdir(parents=True, exist_ok=True)
    ordered = rows.unique("recipe_id").sort("wave", "index", "city", "recipe_id")
    clips = [_extract(row, media, read_media) for row in ordered.iter_rows(named=True)]
    page = out_dir / "index.html"
    record = json.dumps(clips, ensure_ascii=False, sort_keys=True).replace("<", "\\u003c")
    _replace(page, _TEMPLATE.read_text().replace("__CLIPS__", record).encode())
    kept = {Path(clip[kind]).name for clip in clips for kind in ("video", "poster") if clip[kind]}
    for path in media.iterdir():
        if path.name not in kept:
            path.unlink()
    return page


def _extract(row: Mapping[str, Any], media: Path, read_media: ReadMedia) -> dict[str, Any]:
    """Put one clip's files beside the page; returns what the page knows of the clip."""
    video = media / f"{row['recipe_id']}.mp4"
    _replace(video, read_media(row, "rgb"))
    poster = ""
    if row["poster_offset"] is not None:
        picture = read_media(row, "poster")
        suffix = next((s for magic, s in _PICTURES.items() if picture.startswith(magic)), ".png")
        _replace(video.with_suffix(suffix), picture)
        poster = f"media/{video.stem}{suffix}"
    facts = {name: row[name] if row[name] is not None else "" for name in _FACTS}
    return {**facts, "video": f"media/{video.name}", "poster": poster}


def _replace(path: Path, content: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)
