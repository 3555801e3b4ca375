"""The files of a generated clip: what a pack holds, and what a person asked to have saved.

rgb.mp4         H.264, the frames
poster.jpg      the middle frame, small
recipe.json     what made the clip: model, revision, shape, profile, prompts, seed
sound.flac      sound, where the model makes it
actions.json    actions, where the model answers them
"""

import io
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from gpu_jobs.common.video import VideoFile, to_yuv420, write_poster
from gpu_jobs.cosmos_generate.protocol import Decoded
from worldloop.errors import ClipRejectedError
from worldloop.seeds import canonical_json

AAC_RATES_HZ = frozenset(
    {8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000}
)


def write_clip(folder: Path, decoded: Decoded, *, rate_fps: int, record: dict[str, Any]) -> None:
    """Write the files of a clip into an empty folder.

    Args:
        folder: Where to.
        decoded: The clip.
        rate_fps: Frames per second.
        record: Everything that decided the clip's bytes; becomes `recipe.json`.

    Raises:
        ClipRejectedError: If the frames are not RGB of even sides.
    """
    frames = decoded.frames
    num_frames, height, width, channels = frames.shape
    if frames.dtype != np.uint8 or channels != 3 or height % 2 or width % 2 or not num_frames:
        raise ClipRejectedError(
            "encode",
            f"frames of shape {frames.shape} and type {frames.dtype}; H.264 needs even sides",
        )
    with VideoFile(folder / "rgb.mp4", size=(width, height), rate_fps=rate_fps) as video:
        for frame in frames:
            video.add(to_yuv420(frame))
    write_poster(folder / "poster.jpg", frames[num_frames // 2])
    (folder / "recipe.json").write_bytes(canonical_json(record))
    if decoded.sound is not None:
        write_flac(folder / "sound.flac", decoded.sound, decoded.sound_rate_hz)
    if decoded.actions is not None:
        rows = [[round(float(value), 6) for value in row] for row in decoded.actions]
        (folder / "actions.json").write_bytes(
            canonical_json({"rate_fps": rate_fps, "actions": rows})
        )


def save_clip(clip: Path, save_dir: Path, *, name: str, prompt: str) -> Path:
    """Save a finished clip for a person: `NAME.mp4`, with its sound, beside `NAME.txt`.

    Args:
        clip: Folder of the finished clip.
        save_dir: Where to; made if it is not there.
        name: Without suffix.
        prompt: The prompt that the clip was made from.

    Returns:
        The video. Both files appear whole, the text first.
    """
    save_dir.mkdir(parents=True, exist_ok=True)
    sound = clip / "sound.flac"
    video = (clip / "rgb.mp4").read_bytes()
    _replace(save_dir / f"{name}.txt", f"{prompt}\n".encode())
    target = save_dir / f"{name}.mp4"
    _replace(target, with_sound(video, sound.read_bytes()) if sound.exists() else video)
    return target


def write_flac(path: Path, sound: NDArray[np.float32], rate_hz: int) -> None:
    """Write sound losslessly at 16 bits.

    Args:
        path: `.flac`.
        sound: In [-1, 1], shape (channels, samples), one or two channels.
        rate_hz: Samples per second.
    """
    samples = np.rint(np.clip(sound, -1.0, 1.0) * 32767).astype(np.int16)
    layout = "mono" if samples.shape[0] == 1 else "stereo"
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as file:
        stream = file.add_stream("flac", rate=rate_hz, layout=layout)
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(samples.T).reshape(1, -1), format="s16", layout=layout
        )
        frame.sample_rate = rate_hz
        for packet in (*stream.encode(frame), *stream.encode()):
            file.mux(packet)


def with_sound(video: bytes, sound: bytes) -> bytes:
    """An MP4 with the frames of one file, untouched, and the sound of another as AAC."""
    sink = io.BytesIO()
    with (
        av.open(io.BytesIO(video)) as pictures,
        av.open(io.BytesIO(sound)) as heard,
        av.open(sink, "w", format="mp4") as out,
    ):
        seen = pictures.streams.video[0]
        video_out = out.add_stream_from_template(seen)
        rate_hz = heard.streams.audio[0].rate
        audio_out = out.add_stream("aac", rate=rate_hz if rate_hz in AAC_RATES_HZ else 48_000)
        for packet in pictures.demux(seen):
            if packet.dts is not None:
                packet.stream = video_out
                out.mux(packet)
        for frame in heard.decode(audio=0):
            for packet in audio_out.encode(frame):
                out.mux(packet)
        for packet in audio_out.encode():
            out.mux(packet)
    return sink.getvalue()


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)
