"""Shape every text of `signs.csv`, and those of earlier releases, and keep their outlines in `outlines.npz.xz`.

Run by hand after `bake_words`, where the Noto fonts are installed:

    apt-get install fonts-noto-core fonts-noto-cjk
    pip install "worldloop[atlas]" -c constraints.txt
    python -m worldloop.atlas.bake_signs --font-dir /usr/share/fonts --sheet docs/images/signs.png

and look at the sheet. HarfBuzz joins, reorders and stacks what a script joins, reorders and stacks; what is kept needs no font
and no shaping any more. The arrays of the archive are explained in `signs.py`.
"""

import argparse
import io
import json
import lzma
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worldloop.atlas.csv_tables import DATA, read_rows
from worldloop.atlas.signs import GRID, LEVEL, outlines, sign_image
from worldloop.errors import MalformedRecordError, UnknownKeyError

TOLERANCE = 0.4  # units by which a chord may miss its curve; a pixel of a 40 px sign has about five
LONGEST_EDGE = 127  # longer edges are cut, so that every edge fits into a byte
FONTS: dict[str, tuple[str, int]] = {  # script, or language where it decides: file, face in it
    **dict.fromkeys(("Latn", "Cyrl", "Grek"), ("NotoSans-Bold.ttf", 0)),
    "Arab": ("NotoSansArabic-Bold.ttf", 0),
    "ur": ("NotoNastaliqUrdu-Bold.ttf", 0),
    "Armn": ("NotoSansArmenian-Bold.ttf", 0),
    "Beng": ("NotoSansBengali-Bold.ttf", 0),
    "Deva": ("NotoSansDevanagari-Bold.ttf", 0),
    "Ethi": ("NotoSansEthiopic-Bold.ttf", 0),
    "Geor": ("NotoSansGeorgian-Bold.ttf", 0),
    "Gujr": ("NotoSansGujarati-Bold.ttf", 0),
    "Guru": ("NotoSansGurmukhi-Bold.ttf", 0),
    "Hebr": ("NotoSansHebrew-Bold.ttf", 0),
    "Khmr": ("NotoSansKhmer-Bold.ttf", 0),
    "Knda": ("NotoSansKannada-Bold.ttf", 0),
    "Laoo": ("NotoSansLao-Bold.ttf", 0),
    "Mlym": ("NotoSansMalayalam-Bold.ttf", 0),
    "Mymr": ("NotoSansMyanmar-Bold.ttf", 0),
    "Orya": ("NotoSansOriya-Bold.ttf", 0),
    "Sinh": ("NotoSansSinhala-Bold.ttf", 0),
    "Taml": ("NotoSansTamil-Bold.ttf", 0),
    "Telu": ("NotoSansTelugu-Bold.ttf", 0),
    "Thaa": ("NotoSansThaana-Bold.ttf", 0),
    "Thai": ("NotoSansThai-Bold.ttf", 0),
    "Jpan": ("NotoSansCJK-Bold.ttc", 0),
    "Kore": ("NotoSansCJK-Bold.ttc", 1),
    "Hans": ("NotoSansCJK-Bold.ttc", 2),
    "Hant": ("NotoSansCJK-Bold.ttc", 3),
    "zh-Hant-HK": ("NotoSansCJK-Bold.ttc", 4),
}
HARFBUZZ_SCRIPTS = {"Jpan": "Hani", "Kore": "Hang", "Hans": "Hani", "Hant": "Hani"}
FALLBACK = "Latn"  # digits and signs that a font of one script lacks, e.g. X of X-ray
SHEET_LANGUAGES = (
    *("ar", "fa", "ur", "ckb", "he", "hi", "mr", "ne", "bn", "ta", "kn", "si", "th", "lo"),
    *("km", "my", "am", "ka", "hy", "el", "ru", "mn", "ja", "ko", "zh-Hans", "zh-Hant", "vi", "tr"),
)
SHEET_WORDS = ("hospital", "museum", "zoo", "school", "elephant", "no_smoking", "station")
SHEET_LINE_PX = 62
SHEET_WIDTH_PX = 740
JOINERS = "\u200c\u200d"  # shape the letters beside them and are drawn by no font
Point = tuple[float, float]


def main() -> None:
    """Shape all texts and write the archive."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--font-dir", type=Path, required=True, help="searched with its subfolders")
    parser.add_argument("--sheet", type=Path, help="image of a few signs of every script")
    arguments = parser.parse_args()
    shaper = Shaper(arguments.font_dir)
    signs = read_rows(DATA / "signs.csv")
    former = read_rows(DATA / "inputs" / "former_signs.csv")  # scenes of earlier releases have them
    texts: dict[str, list[str]] = {}
    for language in read_rows(DATA / "languages.csv"):
        tag = language["tag"]
        texts[tag] = sorted({sign["text"] for sign in [*signs, *former] if sign["language"] == tag})
        for text in texts[tag]:
            shaper.add(text, language)
    names = json.dumps(texts, ensure_ascii=False, separators=(",", ":")).encode()
    write_archive({"texts": np.frombuffer(names, np.uint8), **shaper.arrays()})
    if arguments.sheet:
        outlines.cache_clear()
        write_sheet(arguments.sheet, signs)


def write_sheet(path: Path, signs: Sequence[dict[str, str]]) -> None:
    """Draw `SHEET_WORDS` in `SHEET_LANGUAGES`, white on blue, as far as each line has room."""
    texts = {(sign["language"], sign["word"]): sign["text"] for sign in signs}
    lines = [[texts.get((tag, word)) for word in SHEET_WORDS] for tag in SHEET_LANGUAGES]
    sheet = np.zeros((len(lines) // 2 * SHEET_LINE_PX, 2 * SHEET_WIDTH_PX), np.uint8)
    for place, (tag, line) in enumerate(zip(SHEET_LANGUAGES, lines, strict=True)):
        column, row = divmod(place, len(lines) // 2)
        left, top = column * SHEET_WIDTH_PX + 12, row * SHEET_LINE_PX + 14
        for text in filter(None, line):
            mask = sign_image(tag, text, SHEET_LINE_PX - 28)
            right = left + mask.shape[1]
            if right < (column + 1) * SHEET_WIDTH_PX:
                sheet[top : top + len(mask), left:right] = mask
                left = right + 26
    image = Image.fromarray(sheet // LEVEL, "P")
    shades = np.linspace((24, 60, 110), (255, 255, 255), 16)
    image.putpalette(shades.round().astype(np.uint8).tobytes())
    image.save(path, bits=4, optimize=True)


def write_archive(arrays: dict[str, NDArray[Any]]) -> None:
    """Write `outlines.npz.xz`; equal arrays give equal bytes."""
    packed = io.BytesIO()
    np.savez(packed, allow_pickle=False, **arrays)
    (DATA / "outlines.npz.xz").write_bytes(lzma.compress(packed.getvalue(), preset=9))


class Shaper:
    """Shapes texts one after another and collects each glyph that they need once."""

    def __init__(self, font_dir: Path) -> None:
        self._font_dir = font_dir
        self._fonts: dict[tuple[str, int], Any] = {}
        self._glyphs: dict[
            tuple[str, int], int
        ] = {}  # file and glyph id, which faces of a file share
        self._outlines: list[list[NDArray[np.int64]]] = []
        self._runs: list[tuple[int, int, int]] = []
        self._text_sizes: list[int] = []

    def add(self, text: str, language: dict[str, str]) -> None:
        """Shape a text in a row of `languages.csv`.

        Raises:
            UnknownKeyError: If a font file is missing.
            MalformedRecordError: If no font has a letter of the text.
        """
        tag = language["tag"]
        own = FONTS[tag if tag in FONTS else language["script"]]
        segments = self._segments(text, own)
        pen = before = runs = 0
        for name, face, part in segments if language["direction"] == "ltr" else segments[::-1]:
            shaped, width = self._shaped(part, language, name, face)
            for glyph, x, y in shaped:
                if not glyph:
                    expected = f"letters that {own[0]} or {FONTS[FALLBACK][0]} has"
                    raise MalformedRecordError(
                        f"sign in {tag!r}", text, expected, "Mend signs.csv."
                    )
                self._runs.append((self._glyph(name, face, glyph), pen + x - before, y))
                before = pen + x
            pen, runs = pen + width, runs + len(shaped)
        self._text_sizes.append(runs)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything collected, as `signs.py` explains it."""
        polygons = [polygon for outline in self._outlines for polygon in outline]
        glyphs, steps, lifts = np.array(self._runs, np.int64).T
        return {
            "text_sizes": np.array(self._text_sizes, np.uint8),
            "glyphs": glyphs.astype(np.uint16),
            "steps": steps.astype(np.int16),
            "lifts": lifts.astype(np.int16),
            "glyph_sizes": np.array([len(outline) for outline in self._outlines], np.uint8),
            "polygon_sizes": np.array([len(polygon) for polygon in polygons], np.uint8),
            "starts": np.array([polygon[0] for polygon in polygons], np.int16),
            "edges": np.concatenate([np.diff(polygon, axis=0) for polygon in polygons]).astype(
                np.int8
            ),
        }

    def _segments(self, text: str, own: tuple[str, int]) -> list[tuple[str, int, str]]:
        """The text cut where a font ends: file, face and letters that it draws."""
        segments: list[tuple[str, int, str]] = []
        for letter in text:
            has = self._font(*own).get_nominal_glyph(ord(letter)) or letter in JOINERS
            name, face = own if has else FONTS[FALLBACK]
            if segments and segments[-1][:2] == (name, face):
                segments[-1] = (name, face, segments[-1][2] + letter)
            else:
                segments.append((name, face, letter))
        return segments

    def _shaped(
        self, text: str, language: dict[str, str], name: str, face: int
    ) -> tuple[list[tuple[int, int, int]], int]:
        """Glyph ids with their places, left to right as one sees them, and the width, in grid units."""
        import uharfbuzz as hb

        font, script = self._font(name, face), language["script"]
        buffer = hb.Buffer()
        buffer.add_str(text)
        buffer.script = HARFBUZZ_SCRIPTS.get(script, script)
        buffer.language, buffer.direction = language["tag"], language["direction"]
        hb.shape(font, buffer)
        scale, pen, shaped = GRID / font.face.upem, 0, []
        for info, position in zip(buffer.glyph_infos, buffer.glyph_positions, strict=True):
            x, y = pen + position.x_offset, position.y_offset
            shaped.append((info.codepoint, round(x * scale), round(y * scale)))
            pen += position.x_advance
        return shaped, round(pen * scale)

    def _font(self, name: str, face: int) -> Any:
        """A font, opened once."""
        import uharfbuzz as hb

        if (name, face) not in self._fonts:
            found = sorted(self._font_dir.rglob(name))
            if not found:
                raise UnknownKeyError(
                    "font", name, {path.name for path in self._font_dir.rglob("*.tt[fc]")}
                )
            self._fonts[name, face] = hb.Font(hb.Face(hb.Blob.from_file_path(found[0]), face))
        return self._fonts[name, face]

    def _glyph(self, name: str, face: int, glyph: int) -> int:
        """Number of a glyph among those collected."""
        if (name, glyph) not in self._glyphs:
            font = self._font(name, face)
            pen = PolygonPen(GRID / font.face.upem)
            font.draw_glyph_with_pen(glyph, pen)
            self._glyphs[name, glyph] = len(self._outlines)
            self._outlines.append(pen.polygons())
        return self._glyphs[name, glyph]


class PolygonPen:
    """A pen of the fontTools kind that turns curves into polygons of whole units."""

    def __init__(self, scale: float) -> None:
        self._scale = scale
        self._paths: list[list[Point]] = []

    def moveTo(self, point: Point) -> None:  # noqa: N802 - the pens' own names
        """Begin a contour."""
        self._paths.append([self._scaled(point)])

    def lineTo(self, point: Point) -> None:  # noqa: N802
        """A straight edge."""
        self._paths[-1].append(self._scaled(point))

    def qCurveTo(self, control: Point, end: Point) -> None:  # noqa: N802
        """A quadratic Bezier curve."""
        self._curve([control, end])

    def curveTo(self, first: Point, second: Point, end: Point) -> None:  # noqa: N802
        """A cubic Bezier curve."""
        self._curve([first, second, end])

    def closePath(self) -> None:  # noqa: N802
        """Polygons are closed anyway."""

    def endPath(self) -> None:  # noqa: N802
        """As `closePath`."""

    def polygons(self) -> list[NDArray[np.int64]]:
        """Closed polygons, (points, 2), no edge longer than `LONGEST_EDGE` along an axis."""
        tidy = [_tidy(np.rint(np.array(path)).astype(np.int64)) for path in self._paths]
        return [_cut(polygon) for polygon in tidy if len(polygon) > 2]

    def _scaled(self, point: Point) -> Point:
        return point[0] * self._scale, point[1] * self._scale

    def _curve(self, rest: Sequence[Point]) -> None:
        """Chords of a curve, as many as keep within `TOLERANCE`."""
        controls = np.array([self._paths[-1][-1], *map(self._scaled, rest)])
        bend = np.abs(np.diff(controls, 2, axis=0)).max()
        degree = len(rest)
        count = max(1, int(np.ceil(np.sqrt(degree * (degree - 1) * bend / (8 * TOLERANCE)))))
        for t in np.arange(1, count + 1) / count:
            points = controls
            while len(points) > 1:  # de Casteljau
                points = points[:-1] * (1 - t) + points[1:] * t
            self._paths[-1].append((float(points[0, 0]), float(points[0, 1])))


def _tidy(polygon: NDArray[np.int64]) -> NDArray[np.int64]:
    """A polygon without points that repeat or lie on the line between their neighbours."""
    polygon = polygon[(polygon != np.roll(polygon, 1, 0)).any(1)]
    back, ahead = polygon - np.roll(polygon, 1, 0), np.roll(polygon, -1, 0) - polygon
    turns = back[:, 0] * ahead[:, 1] != back[:, 1] * ahead[:, 0]
    corners: NDArray[np.int64] = polygon[turns]
    return corners


def _cut(polygon: NDArray[np.int64]) -> NDArray[np.int64]:
    """A polygon whose edges, but for the closing one, fit into a byte."""
    points = [polygon[0]]
    for point in polygon[1:]:
        pieces = -(-int(np.abs(point - points[-1]).max()) // LONGEST_EDGE)
        begin = points[-1]
        points += [begin + (point - begin) * piece // pieces for piece in range(1, pieces + 1)]
    return np.array(points)


if __name__ == "__main__":
    main()
