"""Pictures out of an mp4: the pixels of the frames that stand for a clip."""

import io
from typing import IO

import av
import numpy as np
from numpy.typing import NDArray

from worldloop.curation.spacing import spaced_indices
from worldloop.errors import MalformedRecordError

UInt8 = NDArray[np.uint8]


def read_frames(video: bytes | IO[bytes], *, count: int) -> UInt8:
    """Evenly spaced frames of a clip as RGB.

    Args:
        video: An mp4.
        count: How many frames; fewer come back only from a clip that has fewer.

    Returns:
        uint8, shape (N, H, W, 3), in order of time.

    Raises:
        MalformedRecordError: If the bytes are not a decodable mp4.
    """
    source = io.BytesIO(video) if isinstance(video, bytes) else video
    frames = []
    try:
        with av.open(source, format="mp4") as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            wanted = set(spaced_indices(stream.frames, count=count))
            for index, frame in enumerate(container.decode(stream)):
                if index in wanted:
                    frames.append(frame.to_ndarray(format="rgb24"))
                if len(frames) == len(wanted):
                    break
    except (av.FFmpegError, IndexError) as error:
        raise undecodable(error) from error
    if not frames:
        raise undecodable("no frames")
    return np.stack(frames)


def undecodable(found: object) -> MalformedRecordError:
    """The error of a video that cannot be decoded."""
    return MalformedRecordError(
        "video", str(found), "an mp4 whose every frame decodes", "Render the clip again."
    )
