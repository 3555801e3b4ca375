"""Small sheets of posters for the Dagster UI: at most 28 kB, since they live in the event log."""

import base64
import io
from collections.abc import Sequence

import av
from PIL import Image, ImageOps

from worldloop.curation.frames import undecodable

_TILE_PX = (240, 135)  # 16:9; four fill the dialog of the UI, which is about 1,000 pixels wide
_GROUND = (64, 64, 64)
_QUALITIES = (70, 55, 40, 25)


def contact_sheet(posters: Sequence[bytes], *, columns: int = 4, max_bytes: int = 28_000) -> bytes:
    """Posters side by side as one JPEG; tiles are 240 x 135 pixels, and no poster is stretched.

    Args:
        posters: Encoded pictures of any format that Pillow reads, first at the top left.
        columns: Tiles in a row.
        max_bytes: Quality falls until the sheet is at most this large; the coarsest is kept.

    Returns:
        The JPEG file. No posters give one grey tile.
    """
    rows = max(1, -(-len(posters) // columns))
    width = min(columns, max(1, len(posters)))
    sheet = Image.new("RGB", (width * _TILE_PX[0], rows * _TILE_PX[1]), _GROUND)
    for position, poster in enumerate(posters):
        tile = _tile(Image.open(io.BytesIO(poster)))
        row, column = divmod(position, columns)
        sheet.paste(tile, (column * _TILE_PX[0], row * _TILE_PX[1]))
    content = b""
    for quality in _QUALITIES:
        sink = io.BytesIO()
        sheet.save(sink, "JPEG", quality=quality, optimize=True)
        content = sink.getvalue()
        if len(content) <= max_bytes:
            break
    return content


def small_picture(content: bytes, *, width_px: int = 960, max_bytes: int = 60_000) -> bytes:
    """A picture as a JPEG that an event log can hold.

    Args:
        content: Encoded picture of any format that Pillow reads.
        width_px: It is made no wider than this.
        max_bytes: Quality falls until it is at most this large; the coarsest is kept.
    """
    picture = Image.open(io.BytesIO(content)).convert("RGB")
    if picture.width > width_px:
        picture = picture.resize((width_px, max(1, picture.height * width_px // picture.width)))
    small = b""
    for quality in _QUALITIES:
        sink = io.BytesIO()
        picture.save(sink, "JPEG", quality=quality, optimize=True)
        small = sink.getvalue()
        if len(small) <= max_bytes:
            break
    return small


def as_markdown(jpeg: bytes, *, alt: str) -> str:
    """A picture as Markdown that needs no server."""
    return f"![{alt}](data:image/jpeg;base64,{base64.b64encode(jpeg).decode()})"


def first_and_last(video: bytes) -> tuple[bytes, bytes]:
    """The first and the last frame of a clip as JPEGs of a tile's size.

    Raises:
        MalformedRecordError: If the bytes are not a decodable video.
    """
    first = last = None
    try:
        with av.open(io.BytesIO(video)) as container:
            for frame in container.decode(video=0):
                first = first or frame
                last = frame
    except (av.FFmpegError, IndexError) as error:
        raise undecodable(error) from error
    if first is None or last is None:
        raise undecodable("no frames")
    return _jpeg(first.to_image()), _jpeg(last.to_image())


def _tile(picture: Image.Image) -> Image.Image:
    """A picture in the size of a tile, with bars where its sides have another ratio."""
    return ImageOps.pad(picture.convert("RGB"), _TILE_PX, color=_GROUND)


def _jpeg(picture: Image.Image) -> bytes:
    sink = io.BytesIO()
    _tile(picture).save(sink, "JPEG", quality=85)
    return sink.getvalue()
