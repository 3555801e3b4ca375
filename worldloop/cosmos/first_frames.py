"""The first frames of a clip as a file of their own, without loss: what a generated clip goes on from.

Families differ in which end of a longer video they take; a file of exactly so many frames means the
same to all of them.
"""

import io

import av
from PIL import Image

from worldloop.curation.frames import undecodable
from worldloop.errors import MalformedRecordError


def first_frames_file(video: bytes, count: int) -> tuple[str, bytes]:
    """The first frames of an mp4.

    Args:
        video: The mp4.
        count: How many.

    Returns:
        Name and content: `first_1.png` for one frame, `first_<count>.mkv` (FFV1) for more.

    Raises:
        MalformedRecordError: If the video cannot be decoded or has fewer frames.
    """
    pictures: list[Image.Image] = []
    try:
        with av.open(io.BytesIO(video), format="mp4") as container:
            rate = container.streams.video[0].average_rate
            for frame in container.decode(video=0):
                pictures.append(frame.to_image())
                if len(pictures) == count:
                    break
    except (av.FFmpegError, IndexError) as error:
        raise undecodable(error) from error
    if len(pictures) < count:
        raise MalformedRecordError(
            "clip to go on from",
            f"{len(pictures)} frames",
            f"at least {count}",
            "Plan longer sketches, or fewer conditioning frames.",
        )
    sink = io.BytesIO()
    if count == 1:
        pictures[0].save(sink, "PNG")
        return "first_1.png", sink.getvalue()
    with av.open(sink, "w", format="matroska") as out:
        stream = out.add_stream("ffv1", rate=rate)
        stream.width, stream.height, stream.pix_fmt = *pictures[0].size, "bgr0"
        for picture in pictures:
            out.mux(stream.encode(av.VideoFrame.from_image(picture).reformat(format="bgr0")))
        out.mux(stream.encode())
    return f"first_{count}.mkv", sink.getvalue()
