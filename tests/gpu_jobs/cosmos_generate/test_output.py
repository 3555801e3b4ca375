import io

import av
import numpy as np
import pytest

from gpu_jobs.cosmos_generate.output import save_clip, write_clip
from gpu_jobs.cosmos_generate.protocol import Decoded


@pytest.mark.parametrize("rate_hz", [48_000, 600])
def test_a_saved_clip_has_its_sound_whatever_its_rate(tmp_path, rate_hz):
    frames = np.full((8, 32, 32, 3), 90, np.uint8)
    sound = np.sin(np.arange(rate_hz // 3, dtype=np.float32))[None] / 2
    (tmp_path / "clip").mkdir()
    write_clip(tmp_path / "clip", Decoded(frames, sound, rate_hz), rate_fps=24, record={})

    path = save_clip(tmp_path / "clip", tmp_path / "out", name="tram", prompt="A tram.")
    with av.open(io.BytesIO(path.read_bytes())) as video:
        assert [stream.type for stream in video.streams] == ["video", "audio"]
        assert sum(frame.samples for frame in video.decode(audio=0)) > 0
    assert path.with_suffix(".txt").read_text() == "A tram.\n"
