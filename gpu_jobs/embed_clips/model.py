"""The embedding model: frames and texts to unit vectors of one space.

A starter is a folder: `open_clip_config.json` (open_clip's own schema), `image.safetensors`,
`text.safetensors` and `card.json`. Weights are fp16. Of the token table only rows of tokens seen
in training are stored; every other token has the row `unknown`, which was trained as such.
"""

# B batch, C channels, H height, W width, L tokens, D width of a vector

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from gpu_jobs.common.torch_ops import import_open_clip
from worldloop.errors import JobFailedError, MalformedRecordError

STARTER_DIR = Path(__file__).parent / "starter"
CONFIG, CARD = "open_clip_config.json", "card.json"
IMAGE_WEIGHTS, TEXT_WEIGHTS = "image.safetensors", "text.safetensors"
_TOKENS, _ROWS, _UNKNOWN = "token_embedding.ids", "token_embedding.rows", "token_embedding.unknown"
_TABLE = "token_embedding.weight"
_HUB = "hf-hub:"


@dataclass
class EmbedModel:
    """A loaded model.

    Attributes:
        model_id: Name and hash of weights, or name and revision.
        network: open_clip's CLIP in eval mode.
        tokenize: Texts to token ids, int64 (B, L).
        config: The `open_clip_config.json` of the model.
        device: Where it runs.
    """

    model_id: str
    network: Any
    tokenize: Any
    config: dict[str, Any]
    device: str

    @classmethod
    def load(cls, model: str = "", *, revision: str = "", device: str = "cpu") -> Self:
        """Load a model by the name that stands in `EmbedClipsSpec.model`.

        Raises:
            JobFailedError: If a folder or hub model is not on this machine.
            MalformedRecordError: If a folder does not hold a starter.
        """
        if model.startswith(_HUB):
            return cls._load_hub(model, revision, device)
        return cls._load_folder(Path(model) if model else STARTER_DIR, device)

    @classmethod
    def _load_hub(cls, model: str, revision: str, device: str) -> Self:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        repository = model.removeprefix(_HUB)
        try:
            folder = snapshot_download(repository, revision=revision, local_files_only=True)
        except (LocalEntryNotFoundError, ValueError) as error:
            command = f"hf download {repository} --revision {revision or 'COMMIT'}"
            raise JobFailedError(
                f"The model {model!r} at revision {revision!r} is not in this machine's Hugging Face "
                f"cache; jobs never download. Get it with: {command}"
            ) from error
        open_clip = import_open_clip()
        local = f"local-dir:{folder}"
        network = open_clip.create_model(local, device=device).eval()
        config = json.loads((Path(folder) / CONFIG).read_text())
        return cls(
            f"{repository}@{revision}", network, open_clip.get_tokenizer(local), config, device
        )

    @classmethod
    def _load_folder(cls, folder: Path, device: str) -> Self:
        paths = [folder / name for name in (CONFIG, IMAGE_WEIGHTS, TEXT_WEIGHTS)]
        missing = [path.name for path in paths if not path.is_file()]
        if missing:
            raise JobFailedError(
                f"The embedding model in {str(folder)!r} lacks {', '.join(missing)}; a starter has "
                f"{CONFIG}, {IMAGE_WEIGHTS} and {TEXT_WEIGHTS}. Train one with "
                "gpu_jobs.train_embedder, or configure a hub model."
            )
        config = json.loads(paths[0].read_text())
        network, tokenize = build_network(config["model_cfg"])
        text = _dense_tokens(load_file(paths[2]), config["model_cfg"]["text_cfg"]["vocab_size"])
        try:
            network.load_state_dict({**load_file(paths[1]), **text})
        except RuntimeError as error:
            raise MalformedRecordError(
                f"embedding model {str(folder)!r}",
                str(error)[:200],
                f"the weights that {CONFIG} describes",
                "Train it again.",
            ) from error
        digest = hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()
        name = config.get("name", folder.name)
        return cls(f"{name}-{digest[:12]}", network.to(device).eval(), tokenize, config, device)

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        return int(self.config["model_cfg"]["embed_dim"])

    def embed_frames(self, frames_BHWC: NDArray[np.uint8]) -> torch.Tensor:
        """Unit vectors of frames, float32 (B, D) on the CPU."""
        with torch.inference_mode():
            pixels = torch.from_numpy(frames_BHWC).to(self.device).permute(0, 3, 1, 2)
            ready = to_model_pixels(pixels, self.config)
            return self.network.encode_image(ready, normalize=True).float().cpu()

    def embed_clips(self, frames_NBHWC: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """One unit vector a clip: the mean of its frames' vectors. float32 (N, D)."""
        vectors = self.embed_frames(np.concatenate(frames_NBHWC))
        parts = vectors.split([len(frames) for frames in frames_NBHWC])
        pooled = torch.stack([part.mean(dim=0) for part in parts])
        return np.asarray(torch.nn.functional.normalize(pooled, dim=1).numpy(), np.float32)

    def embed_texts(self, texts: list[str]) -> NDArray[np.float32]:
        """Unit vectors of texts, float32 (B, D)."""
        with torch.inference_mode():
            tokens_BL = self.tokenize(texts).to(self.device)
            vectors_BD = self.network.encode_text(tokens_BL, normalize=True)
            return np.asarray(vectors_BD.float().cpu().numpy(), np.float32)


def to_model_pixels(frames_BCHW: torch.Tensor, config: dict[str, Any]) -> torch.Tensor:
    """uint8 frames of any size as the network wants them, float32.

    A starter sees the whole frame squeezed to its own shape; a hub model sees what its
    `preprocess_cfg` says, mostly the middle square.
    """
    preprocess = config["preprocess_cfg"]
    size = preprocess.get("size") or config["model_cfg"]["vision_cfg"]["image_size"]
    height, width = (size, size) if isinstance(size, int) else size
    target = (height, width)
    if preprocess.get("resize_mode", "shortest") == "shortest":
        factor = max(height / frames_BCHW.shape[2], width / frames_BCHW.shape[3])
        target = tuple(round(side * factor) for side in frames_BCHW.shape[2:])
    pixels = torch.nn.functional.interpolate(
        frames_BCHW.float() / 255,
        size=target,
        mode=preprocess.get("interpolation", "bicubic"),
        antialias=True,
    ).clamp(0, 1)
    top, left = (target[0] - height) // 2, (target[1] - width) // 2
    pixels = pixels[:, :, top : top + height, left : left + width]
    mean = torch.tensor(preprocess["mean"], device=pixels.device).view(1, 3, 1, 1)
    std = torch.tensor(preprocess["std"], device=pixels.device).view(1, 3, 1, 1)
    return (pixels - mean) / std


def build_network(model_cfg: dict[str, Any]) -> tuple[Any, Any]:
    """An untrained network of a config, and its tokenizer, which needs no download."""
    open_clip = import_open_clip()
    vision, text = dict(model_cfg["vision_cfg"]), dict(model_cfg["text_cfg"])
    if isinstance(vision["image_size"], list):
        vision["image_size"] = tuple(vision["image_size"])
    network = open_clip.CLIP(model_cfg["embed_dim"], vision, text)
    return network, open_clip.SimpleTokenizer(context_length=text["context_length"])


def save_starter(
    folder: Path,
    network: Any,
    config: dict[str, Any],
    *,
    seen_tokens: torch.Tensor,
    unknown_token: int,
    card: dict[str, Any],
) -> None:
    """Write a starter folder.

    Args:
        folder: Made if it does not exist.
        network: Trained weights.
        config: `name`, `model_cfg` and `preprocess_cfg`.
        seen_tokens: Ids of the tokens that occurred in training, ascending.
        unknown_token: The id that stood for unknown words in training.
        card: What `card.json` says: data, seeds, figures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.detach().cpu().half().contiguous() for k, v in network.state_dict().items()}
    table = weights.pop(_TABLE)
    image = {name: weights.pop(name) for name in list(weights) if name.startswith("visual.")}
    weights |= {
        _TOKENS: seen_tokens.to(torch.int32),
        _ROWS: table[seen_tokens.long()].contiguous(),
        _UNKNOWN: table[unknown_token].clone(),
    }
    save_file(image, folder / IMAGE_WEIGHTS)
    save_file(weights, folder / TEXT_WEIGHTS)
    for name, record in ((CONFIG, config), (CARD, card)):
        (folder / name).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")


def _dense_tokens(weights: dict[str, torch.Tensor], vocab_size: int) -> dict[str, torch.Tensor]:
    """Text weights with the whole token table in place of the stored rows."""
    ids, rows, unknown = (weights.pop(name) for name in (_TOKENS, _ROWS, _UNKNOWN))
    table = unknown.repeat(vocab_size, 1)
    table[ids.long()] = rows
    return {**weights, _TABLE: table}
