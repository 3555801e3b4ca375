"""Encoded footage: latents of windows and captions, worked out once and kept over rounds and re-runs.

The cache is a folder of safetensors files, each written beside its place and renamed:

    <encoder>/latents/<sha256 of the video>.<window>.safetensors
    <encoder>/captions/<sha256 of the caption or pickle>.safetensors
    hashes.json                  size, time and hash of each video file, so that it is hashed once

`<encoder>` names the model, its revision and the precision; whose video or caption is taken back is
removed by the hash that its files begin with. What training reads is what the files hold, so a fresh
encoding and a kept one give the same numbers.
"""

# C channels, T frames (latent ones of latents), H height, W width, L tokens, D width of a token

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_jobs.posttrain.base import Base
from gpu_jobs.posttrain.footage import FolderClip, Window, read_window, windows_of
from gpu_jobs.posttrain.pickles import T5_FAMILIES, read_pickle
from worldloop.cosmos.families import ClipShape
from worldloop.errors import MalformedRecordError
from worldloop.federation.rounds import Training
from worldloop.seeds import content_id
from worldloop.whole_files import write_whole

Tensor = Any  # torch.Tensor; torch is imported inside functions
OnEvent = Callable[[Mapping[str, Any]], None]

CACHE_VERSION = 1
_HASHES = "hashes.json"
_TELL_EVERY_S = 2.0
_READ_BYTES = 1 << 20
_ODD_RATE = 0.05

log = logging.getLogger(__name__)


@dataclass
class Encodings:
    """Encoded footage with random access, read from the cache as it is asked for; `training.Windows`.

    Attributes:
        base: Encodes what no cache has.
        clips: Clips of the folder that have windows or captions here.
        windows: What there is to draw from.
        shape: Of the windows.
        folder: Of the cache, for this encoder.
        videos: SHA-256 of each clip's file.
        captions: Key of each clip's caption.
        encode_s: Seconds spent on what no cache had.
    """

    base: Base
    clips: Sequence[FolderClip]
    windows: Sequence[Window]
    shape: ClipShape
    folder: Path
    videos: Sequence[str]
    captions: Sequence[str]
    encode_s: float = 0.0

    @property
    def num_clips(self) -> int:
        """Clips that windows come from."""
        return len({window.clip for window in self.windows})

    @property
    def fingerprint(self) -> str:
        """Hash of clips, captions, windows, shape and encoder."""
        return content_id(
            {
                "encoder": self.folder.name,
                "shape": [self.shape.num_frames, self.shape.height_px, self.shape.width_px],
                "windows": [
                    [self.videos[w.clip], self.captions[w.clip], w.first_frame, w.interval]
                    for w in self.windows
                ],
            }
        )

    def __len__(self) -> int:
        return len(self.windows)

    def clip(self, index: int) -> int:
        """Number of the clip that a window is of, in `clips`."""
        return self.windows[index].clip

    def latent(self, index: int) -> Tensor:
        """A window, float32 (C, T, H, W) on the CPU; encoded now if no cache has it.

        Raises:
            MalformedRecordError: If its video cannot be decoded.
        """
        from safetensors.torch import load_file

        path = self._latent_path(index)
        if not path.exists():
            self._encode_window(index)
        return load_file(path)["latent"].float()

    def context(self, index: int) -> Tensor:
        """The caption of a window, (L, D) on the CPU; encoded now if no cache has it.

        Raises:
            MalformedRecordError: If it is too long, or a pickle is of another encoder.
        """
        return self.caption(self.windows[index].clip)

    def caption(self, clip: int) -> Tensor:
        """The caption of a clip, (L, D) on the CPU; encoded now if no cache has it."""
        from safetensors.torch import load_file

        path = self.folder / "captions" / f"{self.captions[clip]}.safetensors"
        if not path.exists():
            started_s = time.monotonic()
            _write(path, _without_end(self._encoded_caption(self.clips[clip])))
            self.encode_s += time.monotonic() - started_s
        return _with_end(load_file(path))

    def _latent_path(self, index: int) -> Path:
        window = self.windows[index]
        cut = content_id(
            {
                "first_frame": window.first_frame,
                "interval": window.interval,
                "num_frames": window.num_frames,
                "height_px": self.shape.height_px,
                "width_px": self.shape.width_px,
            }
        )
        return self.folder / "latents" / f"{self.videos[window.clip]}.{cut}.safetensors"

    def _encode_window(self, index: int) -> None:
        import torch

        started_s = time.monotonic()
        window = self.windows[index]
        rule = self.base.objective.fit
        frames_THWC = read_window(self.clips[window.clip], window, self.shape, rule=rule)
        latent_CTHW = self.base.encode_frames(frames_THWC)
        # float16 has three more bits than bf16 for the same room, and latents are of the size of 1
        kept = torch.float16 if self.base.key.precision == "bf16" else torch.float32
        _write(self._latent_path(index), {"latent": latent_CTHW.to(kept)})
        self.encode_s += time.monotonic() - started_s

    def _encoded_caption(self, clip: FolderClip) -> Tensor:
        """The clip's T5 pickle where it has one and the model reads T5, else its caption."""
        if clip.pickle is None or self.base.world.family.key not in T5_FAMILIES:
            if not clip.caption:
                raise MalformedRecordError(
                    f"caption of {clip.name}",
                    "only a T5 encoding",
                    f"metas/{clip.name}.txt: {self.base.key.model} does not read T5",
                    "Write its caption.",
                )
            return self.base.encode_caption(clip.caption, self.shape)
        return self._padded(read_pickle(clip.pickle), clip)

    def _padded(self, states_LD: Any, clip: FolderClip) -> Tensor:
        """A pickle as the encoder gives it: zeros up to the model's length, in its precision."""
        import torch

        blank_LD = self.base.blank
        length, width = states_LD.shape
        if width != blank_LD.shape[1] or length > blank_LD.shape[0]:
            raise MalformedRecordError(
                f"T5 encoding {clip.name}.pickle",
                f"({length}, {width})",
                f"at most {blank_LD.shape[0]} tokens of width {blank_LD.shape[1]} for {self.base.key.model}",
                "Write it again with `worldloop embeddings`, or remove it: captions are encoded then.",
            )
        padded_LD = torch.zeros_like(blank_LD)
        padded_LD[:length] = torch.from_numpy(states_LD).to(blank_LD.dtype)
        return padded_LD


def encoded(
    base: Base,
    clips: Sequence[FolderClip],
    training: Training,
    cache_dir: Path,
    *,
    revision: str = "",
    on_event: OnEvent | None = None,
) -> Encodings:
    """Encoded footage, as far as training will surely read it; the rest when it is asked for.

    Captions come first and windows then, so that the text encoder and the autoencoder are not on
    the GPU side by side. If steps cannot draw every window there is, as with the guides' windows
    from every frame on, none is encoded ahead.

    Args:
        base: Whose encoders are used.
        clips: Of `footage.read_folder`.
        training: Its shape, intervals, steps and batch.
        cache_dir: Folder of the cache; made if it is not there.
        revision: Of the weights; another one has another cache.
        on_event: Told `{"event": "encoding", "done": int, "of": int}`; may raise to stop.

    Raises:
        MalformedRecordError: If the shape is not one of the model's, or a clip cannot be read.
    """
    check_shape(base, training.shape)
    windows = windows_of(clips, training)
    _tell_odd_rates(clips, windows, training.shape)
    footage = Encodings(
        base=base,
        clips=clips,
        windows=windows,
        shape=training.shape,
        folder=_encoder_folder(base, cache_dir, revision),
        videos=_hashed(clips, cache_dir),
        captions=[_caption_key(base, clip, training.shape) for clip in clips],
    )
    drawn = training.num_steps * training.batch_size
    _encode_ahead(footage, range(len(windows) if len(windows) <= drawn else 0), on_event)
    return footage


def check_shape(base: Base, shape: ClipShape) -> None:
    """Refuse windows that the model's autoencoder cannot take.

    Raises:
        MalformedRecordError: Naming the side or the length.
    """
    family = base.world.family
    odd = [
        side for side in (shape.height_px, shape.width_px) if side % family.multiple_px or not side
    ]
    if odd:
        raise MalformedRecordError(
            f"video_size for {base.key.model}",
            f"{shape.height_px} x {shape.width_px}",
            f"sides that are multiples of {family.multiple_px}",
            f"Round {odd[0]} to {max(round(odd[0] / family.multiple_px), 1) * family.multiple_px}.",
        )
    if shape.num_frames < 1 or (shape.num_frames - 1) % family.frame_stride:
        nearest = max((shape.num_frames - 1) // family.frame_stride, 0) * family.frame_stride + 1
        raise MalformedRecordError(
            f"num_frames for {base.key.model}",
            shape.num_frames,
            f"1 + a multiple of {family.frame_stride}",
            f"Train with {nearest} or {nearest + family.frame_stride}.",
        )


def _encode_ahead(footage: Encodings, indices: range, on_event: OnEvent | None) -> None:
    """Every caption, then these windows."""
    from gpu_jobs.common.processes import num_processes, this_rank

    used = sorted({window.clip for window in footage.windows})
    missing = [index for index in indices if not footage._latent_path(index).exists()]
    # each process of a job takes another share first, and finds the others' done then
    missing = missing[this_rank() :: num_processes()] + missing
    told_s, num_done, total = 0.0, 0, len(used) + len(missing)

    def tell() -> None:
        nonlocal told_s, num_done
        num_done += 1
        if on_event and (time.monotonic() - told_s > _TELL_EVERY_S or num_done == total):
            told_s = time.monotonic()
            on_event({"event": "encoding", "done": num_done, "of": total})

    for clip in used:
        footage.caption(clip)
        tell()
    if missing:
        footage.base.settle()
    for index in missing:
        if not footage._latent_path(index).exists():
            footage._encode_window(index)
        tell()


def _tell_odd_rates(
    clips: Sequence[FolderClip], windows: Sequence[Window], shape: ClipShape
) -> None:
    """Log footage of another rate than the model is told: it learns another speed of the world."""
    rates = {clips[window.clip].rate_fps / window.interval for window in windows}
    odd = [rate for rate in rates if rate and abs(rate / shape.rate_fps - 1) > _ODD_RATE]
    if odd and shape.num_frames > 1:
        event = {"event": "rate_differs", "told_fps": shape.rate_fps, "found_fps": round(odd[0], 2)}
        log.warning(json.dumps(event))


def _encoder_folder(base: Base, cache_dir: Path, revision: str) -> Path:
    """Where this encoder's files lie: another model, revision or precision has others."""
    facts: dict[str, Any] = {
        "version": CACHE_VERSION,
        "model": base.key.model,
        "revision": revision,
        "precision": base.key.precision,
        "weights": [_weights_id(base.world.parts[name]) for name in base.encoders],
    }
    if text_id := base.objective.text_id(base.world):
        facts["text"] = text_id
    identity = content_id(facts)
    return cache_dir / f"{base.key.model}-{identity[:12]}"


def _weights_id(part: Any) -> str:
    """Tells encoders of one name apart, such as two that were trained from nothing: by a few numbers of each tensor."""
    digest = hashlib.sha256()
    for name, tensor in part.state_dict().items():
        some = tensor.detach().flatten()[:8].float().cpu().numpy()
        digest.update(f"{name}{tuple(tensor.shape)}".encode() + some.tobytes())
    return digest.hexdigest()


def _caption_key(base: Base, clip: FolderClip, shape: ClipShape) -> str:
    if clip.pickle is not None and base.world.family.key in T5_FAMILIES:
        return _sha256(clip.pickle)
    return base.objective.caption_key(clip.caption, shape)


def _hashed(clips: Sequence[FolderClip], cache_dir: Path) -> list[str]:
    """SHA-256 of each clip's file; a file of the same size and time is not read again."""
    path = cache_dir / _HASHES
    try:
        known: dict[str, list[Any]] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    hashes: list[str] = []
    fresh: dict[str, list[Any]] = {}
    for clip in clips:
        state = clip.video.stat()
        stamp, before = [state.st_size, state.st_mtime_ns], known.get(clip.video.name)
        before = fresh.get(clip.video.name, before)  # several windows of one video
        found = before[2] if before and before[:2] == stamp else _sha256(clip.video)
        fresh[clip.video.name] = [*stamp, found]
        hashes.append(found)
    if any(known.get(name) != entry for name, entry in fresh.items()):
        content = json.dumps({**known, **fresh}, sort_keys=True)
        write_whole(path, content.encode())
    return hashes


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _without_end(context_LD: Tensor) -> dict[str, Tensor]:
    """A caption without the zeros that T5 has after its end: most of its bytes."""
    import torch

    used = context_LD.abs().amax(dim=1).nonzero()
    length = int(used[-1]) + 1 if len(used) else 1
    return {"context": context_LD[:length], "length": torch.tensor(len(context_LD))}


def _with_end(kept: Mapping[str, Tensor]) -> Tensor:
    context_LD = kept["context"]
    whole_LD = context_LD.new_zeros((int(kept["length"]), context_LD.shape[1]))
    whole_LD[: len(context_LD)] = context_LD
    return whole_LD


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    from safetensors.torch import save

    write_whole(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}))
