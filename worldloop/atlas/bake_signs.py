"""Draw the sign bitmaps.

Run by hand after `bake`, where the Noto fonts are installed:

    apt-get install fonts-noto-core fonts-noto-cjk
    python -m worldloop.atlas.bake_signs --font-dir /usr/share/fonts

Pillow must have been built with Raqm, which shapes Arabic and Indic scripts.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, features

from worldloop.atlas.csv_tables import DATA, read_rows, write_rows
from worldloop.atlas.signs import HEIGHT_PX, LEVEL
from worldloop.errors import MalformedRecordError, UnknownKeyError

DRAWN_PX = 160  # letters are drawn this high and then shrunk, which smooths better than hinting
GAP_PX = 2
FONTS: dict[str, tuple[str, int]] = {  # script, or language where it decides: file, face in it
    **dict.fromkeys(("Latn", "Cyrl", "Grek"), ("NotoSans-Bold.ttf", 0)),
    "Arab": ("NotoSansArabic-Bold.ttf", 0),
    "ur": ("NotoNastaliqUrdu-Bold.ttf", 0),
    "Armn": ("NotoSansArmenian-Bold.ttf", 0),
    "Beng": ("NotoSansBengali-Bold.ttf", 0),
    "Deva": ("NotoSansDevanagari-Bold.ttf", 0),
    "Ethi": ("NotoSansEthiopic-Bold.ttf", 0),
    "Geor": ("NotoSansGeorgian-Bold.ttf", 0),
    "Hebr": ("NotoSansHebrew-Bold.ttf", 0),
    "Khmr": ("NotoSansKhmer-Bold.ttf", 0),
    "Knda": ("NotoSansKannada-Bold.ttf", 0),
    "Mymr": ("NotoSansMyanmar-Bold.ttf", 0),
    "Sinh": ("NotoSansSinhala-Bold.ttf", 0),
    "Taml": ("NotoSansTamil-Bold.ttf", 0),
    "Thai": ("NotoSansThai-Bold.ttf", 0),
    "Jpan": ("NotoSansCJK-Bold.ttc", 0),
    "Kore": ("NotoSansCJK-Bold.ttc", 1),
    "Hans": ("NotoSansCJK-Bold.ttc", 2),
    "Hant": ("NotoSansCJK-Bold.ttc", 3),
    "zh-Hant-HK": ("NotoSansCJK-Bold.ttc", 4),
}


def main() -> None:
    """Draw every text of `signs.csv`, one strip per language."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--font-dir", type=Path, required=True, help="searched with its subfolders")
    font_dir = parser.parse_args().font_dir
    if not features.check("raqm"):
        raise MalformedRecordError(
            "Pillow", "no Raqm", "Raqm, which shapes Arabic", "Install Pillow from its wheel."
        )
    signs = read_rows(DATA / "signs.csv")
    (DATA / "bitmaps").mkdir(exist_ok=True)
    rows: list[dict[str, str]] = []
    for language in read_rows(DATA / "languages.csv"):
        tag = language["tag"]
        texts = sorted({sign["text"] for sign in signs if sign["language"] == tag})
        font = find_font(font_dir, tag, language["script"])
        masks = [draw(text, font, tag, language["direction"]) for text in texts]
        rows += [{"language": tag, **row} for row in _write_strip(tag, texts, masks)]
    write_rows(DATA / "bitmaps.csv", ("language", "text", "left_px", "width_px"), rows)


def find_font(font_dir: Path, tag: str, script: str) -> ImageFont.FreeTypeFont:
    """The bold Noto face for a language, or for its script."""
    name, face = FONTS[tag if tag in FONTS else script]
    found = sorted(font_dir.rglob(name))
    if not found:
        raise UnknownKeyError("font", name, {path.name for path in font_dir.rglob("*.tt[fc]")})
    return ImageFont.truetype(found[0], DRAWN_PX, index=face, layout_engine=ImageFont.Layout.RAQM)


def draw(text: str, font: ImageFont.FreeTypeFont, tag: str, direction: str) -> NDArray[np.uint8]:
    """One trimmed mask of `HEIGHT_PX` rows and levels 0 to 15."""
    left, top, right, bottom = font.getbbox(text, direction=direction, language=tag)
    size = (int(right - left) + DRAWN_PX, int(bottom - top) + DRAWN_PX)
    canvas = Image.new("L", size)
    at = (DRAWN_PX / 2 - left, DRAWN_PX / 2 - top)
    ImageDraw.Draw(canvas).text(at, text, 255, font=font, direction=direction, language=tag)
    tight = canvas.crop(canvas.getbbox())
    width_px = max(1, round(tight.width * HEIGHT_PX / tight.height))
    small = np.asarray(tight.resize((width_px, HEIGHT_PX), Image.Resampling.BOX), np.uint16)
    levels: NDArray[np.uint8] = ((small + LEVEL // 2) // LEVEL).astype(np.uint8)
    return levels


def _write_strip(
    tag: str, texts: list[str], masks: list[NDArray[np.uint8]]
) -> list[dict[str, str]]:
    """Write one language's strip as a 4-bit PNG; returns where each text begins."""
    widths = [mask.shape[1] for mask in masks]
    lefts = np.cumsum([0, *(width + GAP_PX for width in widths)])
    strip = np.zeros((HEIGHT_PX, lefts[-1]), np.uint8)
    for mask, left in zip(masks, lefts, strict=False):
        strip[:, left : left + mask.shape[1]] = mask
    image = Image.fromarray(strip, "P")
    image.putpalette([level * LEVEL for level in range(16) for _ in "rgb"])
    image.save(DATA / "bitmaps" / f"{tag}.png", bits=4, optimize=True)
    return [
        {"text": text, "left_px": str(left), "width_px": str(width)}
        for text, left, width in zip(texts, lefts, widths, strict=False)
    ]


if __name__ == "__main__":
    main()
