"""Arithmetic of a pass of the transformer, counted from a model's published dimensions."""

from dataclasses import dataclass

from worldloop.cosmos.families import ClipShape
from worldloop.cosmos.models import Model
from worldloop.cosmos.tiles import Grid

_TEXT_TOKENS = 512  # that T5 prompts are filled up to


@dataclass(frozen=True)
class PassFlops:
    """Floating-point operations of one pass; a multiplication and its addition are two.

    Attributes:
        linears: Of matrix products with weights.
        attention: Of self-attention at the given density.
        text: Of attention to text.
    """

    linears: float
    attention: float
    text: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.linears + self.attention + self.text

    def floor_s(self, *, linears_tflops: float, attention_tflops: float) -> float:
        """Seconds that no implementation at these rates is faster than.

        Args:
            linears_tflops: Rate of matrix products, e.g. the measured peak in FP8.
            attention_tflops: Rate of attention, e.g. the measured peak in bf16.
        """
        return self.linears / (linears_tflops * 1e12) + (self.attention + self.text) / (
            attention_tflops * 1e12
        )


def token_grid(model: Model, shape: ClipShape) -> Grid:
    """Tokens of a clip along (frames, rows, columns); sides that patches do not divide are filled up.

    Example:
        >>> from worldloop.cosmos.models import model
        >>> token_grid(model("Cosmos-1.0-Diffusion-7B-Text2World"), ClipShape(121, 1280, 704, 24))
        (16, 44, 80)
    """
    frames, height, width = model.latent_size(shape)
    return frames, -(-height // model.patch), -(-width // model.patch)


def pass_flops(
    model: Model,
    shape: ClipShape,
    *,
    density: float = 1.0,
    batch_size: int = 1,
    text_tokens: int = _TEXT_TOKENS,
) -> PassFlops:
    """Operations of one pass of a model's transformer over a batch.

    Modulation, embeddings and the output layer are left out; together they are under one percent.

    Args:
        model: Its dimensions.
        shape: Of a clip.
        density: Share of self-attention that is computed.
        batch_size: Clips denoised together.
        text_tokens: Tokens of a prompt, with filling.

    Example:
        >>> from worldloop.cosmos.models import model
        >>> shape = ClipShape(121, 1280, 704, 24)
        >>> round(pass_flops(model("Cosmos-1.0-Diffusion-7B-Text2World"), shape).total / 1e15, 3)
        2.209
    """
    frames, rows, columns = token_grid(model, shape)
    tokens = frames * rows * columns
    width, inner = model.token_width, model.num_heads * model.head_dim
    mlp = (3 if model.gated_mlp else 2) * width * (model.mlp_width or 4 * width)
    kv = (model.num_kv_heads or model.num_heads) * model.head_dim
    self_weights = 2 * width * inner + 2 * width * kv
    # Cosmos 3 has text among the keys of self-attention, the others attend to it by itself
    cross_weights = 2 * width * inner if model.text_encoder else 0
    each = batch_size * model.num_layers
    return PassFlops(
        linears=each * 2.0 * tokens * (self_weights + cross_weights + mlp),
        attention=each * 4.0 * tokens * tokens * inner * density,
        text=each * 4.0 * tokens * text_tokens * inner,
    )
