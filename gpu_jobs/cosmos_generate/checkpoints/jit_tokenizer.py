"""The CV8x8x8 video tokenizer as its makers publish it: `encoder.jit`, `decoder.jit`, `mean_std.pt`.

The two TorchScript programs are run as they are, behind as much of the interface of diffusers'
`AutoencoderKLCosmos` as a backend uses: `encode(x).latent_dist.mode()`, `decode(z)`, and a config
with strides and latent statistics. They are not taken apart into that class: a traced program does
not tell the names that its layers had.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldloop.errors import MalformedRecordError

FILES = ("encoder.jit", "decoder.jit", "mean_std.pt")
LATENT_CHANNELS = 16


@dataclass(frozen=True)
class JitConfig:
    """What a backend asks of an autoencoder.

    Attributes:
        latents_mean: Means by channel and latent frame, flat.
        latents_std: Standard deviations likewise.
        latent_channels: Channels of the latent.
        temporal_compression_ratio: Frames per latent frame after the first.
        spatial_compression_ratio: Pixels per latent pixel, each way.
        scaling_factor: Of the latents.
    """

    latents_mean: list[float]
    latents_std: list[float]
    latent_channels: int = LATENT_CHANNELS
    temporal_compression_ratio: int = 8
    spatial_compression_ratio: int = 8
    scaling_factor: float = 1.0


@dataclass(frozen=True)
class _Posterior:
    """A latent that the encoder is certain of."""

    latent: Any

    @property
    def mean(self) -> Any:
        return self.latent

    def mode(self) -> Any:
        return self.latent

    def sample(self, generator: Any = None) -> Any:
        return self.latent


@dataclass(frozen=True)
class _Encoded:
    latent_dist: _Posterior


def is_jit_tokenizer(folder: Path) -> bool:
    """Whether a folder is a tokenizer in this layout."""
    return all((folder / name).is_file() for name in FILES)


def load_jit_tokenizer(folder: Path, dtype: Any) -> Any:
    """The tokenizer as a torch module, on the CPU.

    Args:
        folder: Holds the three files.
        dtype: Precision to run in.

    Returns:
        A module with `encode`, `decode`, `config`, `dtype` and `device`, as `AutoencoderKLCosmos` has.

    Raises:
        MalformedRecordError: If a file is missing or cannot be read.
    """
    import torch

    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise MalformedRecordError(
            f"video tokenizer {folder.name}",
            f"no {', '.join(missing)}",
            ", ".join(FILES),
            f"Run: worldloop models download {folder.name}",
        )
    try:
        encoder = torch.jit.load(folder / "encoder.jit", map_location="cpu")
        decoder = torch.jit.load(folder / "decoder.jit", map_location="cpu")
        mean, std = torch.load(folder / "mean_std.pt", map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, EOFError, OSError) as error:
        raise MalformedRecordError(
            f"video tokenizer {folder.name}",
            str(error).splitlines()[0],
            "TorchScript programs and a pair of tensors",
            "Download it again.",
        ) from error
    config = JitConfig(mean.float().flatten().tolist(), std.float().flatten().tolist())
    return _module(encoder, decoder, config).to(dtype).eval()


def _module(encoder: Any, decoder: Any, config: JitConfig) -> Any:
    """A module of the two programs; the class is made here because torch is imported late."""
    import torch

    class JitTokenizer(torch.nn.Module):  # type: ignore[misc]
        """Two TorchScript programs behind the interface of `AutoencoderKLCosmos`."""

        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder, self.config = encoder, decoder, config
            self.register_buffer("precision", torch.zeros(()), persistent=False)

        @property
        def dtype(self) -> Any:
            return self.precision.dtype

        @property
        def device(self) -> Any:
            return self.precision.device

        def encode(self, video_BCTHW: Any) -> _Encoded:
            """The latent of a clip; programs that answer several tensors answer it first."""
            said = self.encoder(video_BCTHW.to(self.dtype))
            latent = said[0] if isinstance(said, tuple | list) else said
            return _Encoded(_Posterior(latent))

        def decode(self, latent_BCTHW: Any, *, return_dict: bool = False) -> tuple[Any]:
            """The clip of a latent, as diffusers answers it without `return_dict`."""
            said = self.decoder(latent_BCTHW.to(self.dtype))
            return (said[0] if isinstance(said, tuple | list) else said,)

    return JitTokenizer()
