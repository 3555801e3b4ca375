"""Small models: random ones for tests, one of each kind that is run differently, and one that a CPU trains."""

from collections.abc import Iterator
from dataclasses import replace

from worldloop.cosmos.families import ClipShape
from worldloop.cosmos.models.cosmos1 import cosmos1
from worldloop.cosmos.models.cosmos3 import cosmos3, cosmos3_distilled, edge
from worldloop.cosmos.models.predict2 import predict2, predict25, transfer25
from worldloop.cosmos.models.record import Model

TINY_SHAPE = ClipShape(9, 64, 64, 24)


def tiny_line() -> Iterator[Model]:
    """All of them."""
    yield pocket()
    yield _tiny("Tiny-Cosmos-1.0-Text2World", cosmos1("7B", "text2world"))
    yield _tiny("Tiny-Cosmos-1.0-Video2World", cosmos1("7B", "video2world"))
    yield _tiny("Tiny-Cosmos-Predict2-Text2Image", predict2("2B", "text2image"))
    yield _tiny("Tiny-Cosmos-Predict2-Video2World", predict2("2B", "video2world"))
    yield _tiny("Tiny-Cosmos-Predict2.5", predict25("2B", "post-trained"))
    yield _tiny("Tiny-Cosmos-Transfer2.5", transfer25())
    yield _tiny("Tiny-Cosmos3", cosmos3("Nano"))
    yield _tiny("Tiny-Cosmos3-Edge", edge(cosmos3("Edge")))
    four_steps = cosmos3_distilled("Cosmos3-Super-Image2Video-4Step", task="image2world")
    yield _tiny("Tiny-Cosmos3-4Step", four_steps, num_steps=4)


def pocket() -> Model:
    """The model that `train_world_model`'s recipe `pocket` trains from nothing on a CPU."""
    return _tiny(
        "Pocket-Cosmos-1.0-Text2World",
        cosmos1("7B", "text2world"),
        size="pocket",
        params_b=0.004,
        num_layers=6,
        num_heads=4,
        head_dim=32,
        num_steps=20,
    )


def _tiny(name: str, parent: Model, **changes: object) -> Model:
    """A random model of a parent's kind: two narrow layers, small clips, nothing to download."""
    shape = TINY_SHAPE if parent.default_shape.num_frames > 1 else replace(TINY_SHAPE, num_frames=1)
    small = replace(
        parent,
        name=name,
        size="tiny",
        repo_id="",
        revision="tiny",
        licence="Apache-2.0",
        params_b=0.001,
        active_params_b=0.0,
        num_layers=2,
        num_heads=2,
        head_dim=16,
        width=0,
        num_kv_heads=0,
        mlp_width=0,
        text_encoder_params_b=0.0001 if parent.text_encoder else 0.0,
        needs=(),
        guards=(),
        upsamplers=(),
        layouts=("diffusers",),
        original_revision="",
        size_gb=0.01,
        shape=shape,
        num_steps=2,
        tiny=True,
    )
    return replace(small, **changes)  # type: ignore[arg-type]
