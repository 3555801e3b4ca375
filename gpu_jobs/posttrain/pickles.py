"""The text encodings of the published post-training guides: `t5_xxl/NAME.pickle`.

A file is the pickle of a list with one numpy array (L, D), float16, the T5 states of a caption
without what pads it (scripts/get_t5_embeddings.py and get_t5_embeddings_from_cosmos_nemo_assets.py,
nvidia-cosmos/cosmos-predict1, commit 4ed35fa; loaded with `pickle.load(f)[0]` by dataset_video.py).

Any pickle can run a program when it is opened. These are read by an unpickler that knows lists, byte
strings, numbers and plain arrays of floating-point numbers, built by functions of this module, and
nothing else; so a folder that somebody sent can be trained on.
"""

# L tokens, D width of a token

import io
import json
import logging
import math
import pickle
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_jobs.common.entry import run_job
from gpu_jobs.posttrain.footage import METAS, PICKLES, caption_of, videos_of
from gpu_jobs.posttrain.spec import EmbeddingsReport, EmbeddingsSpec
from worldloop.cosmos.models import model
from worldloop.errors import JobFailedError, MalformedRecordError
from worldloop.whole_files import write_whole

MOST_BYTES = 64 << 20
"""A caption of 512 tokens of width 1024 has 1 MB."""
T5_FAMILIES = ("cosmos1", "predict1", "predict2")
"""Families whose captions T5 reads; the others encode captions with what they bring themselves."""
_DTYPES = ("f2", "f4", "f8")
_PROTOCOL = 4  # the default of Python 3.8 to 3.13, with which the guides' scripts ran

log = logging.getLogger(__name__)


def write_pickles(
    spec: EmbeddingsSpec, on_event: Callable[[Mapping[str, Any]], None] | None = None
) -> EmbeddingsReport:
    """Encode the captions of a folder as the published scripts do.

    Args:
        spec: What to write.
        on_event: Told `{"event": "embedding", "name": str, "done": int, "of": int}`; None: the log is.

    Raises:
        MalformedRecordError: If there are no videos, a video has no caption, or the model does not
            read T5.
    """
    folder = Path(spec.footage_dir)
    names = [video.stem for video in videos_of(folder)]
    captions = {name: caption_of(folder, name) or spec.prompt.strip() for name in names}
    _check(spec, captions)
    num_metas = _write_metas(folder, captions)
    place = folder / PICKLES
    due = [n for n in names if spec.overwrite or not (place / f"{n}.pickle").is_file()]
    if not due:
        return EmbeddingsReport(kept=len(names), metas=num_metas)
    encode = _encoder(spec)
    width, by_caption = 0, {}
    for number, name in enumerate(due, start=1):
        caption = captions[name]
        if caption not in by_caption:
            by_caption = {caption: encode(caption)}  # one prompt for all is encoded once
        write_pickle(place / f"{name}.pickle", by_caption[caption])
        width = by_caption[caption].shape[1]
        (on_event or _log_event)(
            {"event": "embedding", "name": name, "done": number, "of": len(due)}
        )
    return EmbeddingsReport(due, len(names) - len(due), num_metas, width)


def _log_event(event: Mapping[str, Any]) -> None:
    log.info(json.dumps(event))


def write_pickle(path: Path, states_LD: NDArray[np.floating[Any]]) -> None:
    """Write an encoding whole or not at all.

    Args:
        path: `t5_xxl/NAME.pickle`.
        states_LD: Without padding.
    """
    content = [np.ascontiguousarray(states_LD, np.float16)]
    write_whole(path, pickle.dumps(content, protocol=_PROTOCOL))


def read_pickle(path: Path) -> NDArray[np.float32]:
    """The states of an encoding, (L, D), without running anything that the file may hold.

    Raises:
        MalformedRecordError: If the file is not a list with one finite array (L, D) or (1, L, D).
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"{path.stat().st_size} bytes")
        found = _ArraysAlone(io.BytesIO(path.read_bytes())).load()
        states = _states(found)
    except (
        pickle.UnpicklingError,
        ValueError,
        TypeError,
        EOFError,
        AttributeError,
        IndexError,
        KeyError,
        OverflowError,
        MemoryError,
        RecursionError,
        UnicodeDecodeError,
    ) as error:
        raise MalformedRecordError(
            f"T5 encoding {path.parent.name}/{path.name}",
            str(error)[:120] or type(error).__name__,
            "the pickle of a list with one array of floating-point numbers, and nothing else",
            "Write it with `worldloop embeddings`.",
        ) from error
    return states


def _states(found: Any) -> NDArray[np.float32]:
    if isinstance(found, list | tuple) and len(found) == 1:
        found = found[0]
    if not isinstance(found, _Array) or found.values is None:
        raise ValueError(f"a {type(found).__name__}")
    values = found.values
    if values.ndim == 3 and len(values) == 1:
        values = values[0]
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"an array of shape {values.shape}, or with values that are not finite")
    return values.astype(np.float32)


class _Dtype:
    """Stands for `numpy.dtype` while a pickle is read: a few types by name."""

    def __init__(self, name: object, *flags: object) -> None:
        if not isinstance(name, str) or name.lstrip("<>=|") not in _DTYPES:
            raise pickle.UnpicklingError(f"an array of type {str(name)[:20]!r}")
        self.name, self.order = name.lstrip("<>=|"), "<"

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] == ">":
            self.order = ">"

    @property
    def real(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.name)


class _Array:
    """Stands for `numpy.ndarray` while a pickle is read; its numbers are taken from bytes alone."""

    values: NDArray[Any] | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, by_columns, content = state
        self.values = _taken(content, dtype, shape, "F" if by_columns else "C")


def _taken(content: Any, dtype: Any, shape: Any, order: str) -> NDArray[Any]:
    if not isinstance(dtype, _Dtype) or not isinstance(content, bytes | bytearray):
        raise pickle.UnpicklingError("an array of objects")
    if not all(isinstance(side, int) and side >= 0 for side in shape):
        raise pickle.UnpicklingError(f"an array of shape {str(shape)[:40]}")
    if math.prod(shape) * dtype.real.itemsize != len(content):
        raise pickle.UnpicklingError(f"{len(content)} bytes for an array of shape {shape}")
    flat = np.frombuffer(bytes(content), dtype.real)
    return flat.reshape(shape, order="F" if order == "F" else "C")


def _reconstruct(*args: object) -> _Array:
    """What pickles of numpy's protocol 4 and before begin an array with."""
    return _Array()


def _frombuffer(content: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    """What pickles of protocol 5 make an array with."""
    array = _Array()
    array.values = _taken(content, dtype, shape, str(order))
    return array


def _encoded_text(text: str, encoding: str) -> bytes:
    """`_codecs.encode`, with which pickles of protocol 2 and before write bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"text encoded as {encoding!r}")
    return text.encode("latin1")


_KNOWN: Mapping[tuple[str, str], Any] = {
    (f"{module}.{part}", name): stand_in
    for module in ("numpy.core", "numpy._core")
    for part, name, stand_in in (
        ("multiarray", "_reconstruct", _reconstruct),
        ("numeric", "_frombuffer", _frombuffer),
    )
} | {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encoded_text,
}


class _ArraysAlone(pickle.Unpickler):
    """An unpickler for which nothing exists but arrays."""

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in of a name that an array needs.

        Raises:
            pickle.UnpicklingError: For every other name.
        """
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it wants to use {module}.{name}")
        # a new function each time: what a pickle sets on it is gone with it
        stand_in = _KNOWN[module, name]
        return lambda *args: stand_in(*args)


def _check(spec: EmbeddingsSpec, captions: Mapping[str, str]) -> None:
    family = model(spec.model).family
    if family not in T5_FAMILIES:
        raise MalformedRecordError(
            f"text encoder of {spec.model}",
            f"that of {family}, which is not T5",
            f"a model of {', '.join(T5_FAMILIES)}",
            "This family needs no encodings beforehand: train from metas/ alone.",
        )
    silent = [name for name, caption in captions.items() if not caption]
    if silent:
        raise MalformedRecordError(
            f"captions of {Path(spec.footage_dir).name}",
            f"none for {len(silent)} video(s), first {silent[:3]}",
            f"{METAS}/{silent[0]}.txt",
            "Write the captions, or give one for all with --prompt.",
        )


def _write_metas(folder: Path, captions: Mapping[str, str]) -> int:
    """Captions for clips that have none, as the published script writes them."""
    missing = [name for name in captions if not caption_of(folder, name)]
    (folder / METAS).mkdir(exist_ok=True)
    for name in missing:
        (folder / METAS / f"{name}.txt").write_text(captions[name], encoding="utf-8")
    return len(missing)


def _encoder(spec: EmbeddingsSpec) -> Callable[[str], NDArray[np.float16]]:
    """The T5 of a model's folder alone; its transformer is not loaded."""
    from gpu_jobs.common.torch_ops import import_diffusers

    import_diffusers()
    import torch
    from transformers import AutoTokenizer, T5EncoderModel

    from gpu_jobs.cosmos_generate.backends import cosmos1, predict2
    from gpu_jobs.cosmos_generate.backends.pipeline import Layout

    known = model(spec.model)
    layout = Layout(known, Path(spec.checkpoint_dir), (*cosmos1.PIPELINES, *predict2.PIPELINES))
    layout.check()
    device = "cuda" if spec.device != "cpu" and torch.cuda.is_available() else "cpu"
    if device == "cpu" and spec.device not in ("auto", "cpu"):
        raise JobFailedError(
            f"The job asks for {spec.device!r} and this machine shows no CUDA device. Use device='auto'."
        )
    tokenizer = AutoTokenizer.from_pretrained(layout.text("tokenizer"))
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    encoder = T5EncoderModel.from_pretrained(layout.text("text_encoder"), dtype=dtype)
    encoder = encoder.eval().to(device)
    limit = known.record.max_prompt_tokens

    def encode(caption: str) -> NDArray[np.float16]:
        tokens = tokenizer(
            [caption],
            padding="max_length",
            max_length=limit,
            truncation=True,
            return_tensors="pt",
        )
        length = int(tokens.attention_mask.sum())
        with torch.no_grad():
            states_BLD = encoder(
                tokens.input_ids.to(device), attention_mask=tokens.attention_mask.to(device)
            ).last_hidden_state
        states: NDArray[np.float16] = states_BLD[0, :length].half().cpu().numpy()
        return states

    return encode


if __name__ == "__main__":
    sys.exit(run_job(EmbeddingsSpec, write_pickles))
