import io

import av
import numpy as np
import pytest
from PIL import Image

from worldloop.cosmos.first_frames import first_frames_file
from worldloop.errors import MalformedRecordError
from worldloop.seeds import stream


def make_video(num_frames=6):
    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=16)
        video.width, video.height, video.pix_fmt = 32, 16, "yuv420p"
        for index in range(num_frames):
            noise = stream(index, "frame").integers(0, 255, (16, 32, 3), np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        container.mux(video.encode())
    return sink.getvalue()


def frames_of(content):
    with av.open(io.BytesIO(content)) as container:
        return [np.asarray(frame.to_image()) for frame in container.decode(video=0)]


def test_one_frame_is_a_picture_of_the_first():
    video = make_video()
    name, content = first_frames_file(video, 1)

    assert name == "first_1.png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), frames_of(video)[0])


def test_more_frames_are_a_video_of_exactly_these_without_loss():
    video = make_video()
    name, content = first_frames_file(video, 5)

    assert name == "first_5.mkv"
    assert np.array_equal(np.stack(frames_of(content)), np.stack(frames_of(video)[:5]))


@pytest.mark.parametrize(
    ("video", "message"), [(make_video(3), "3 frames"), (b"no video", "decodes")]
)
def test_too_short_or_broken_footage_is_refused(video, message):
    with pytest.raises(MalformedRecordError, match=message):
        first_frames_file(video, 5)
