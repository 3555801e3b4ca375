"""Cosmos 1.0 diffusion, and Predict1, which is the same under its later name."""

from collections.abc import Iterator
from dataclasses import replace

from worldloop.cosmos.companions import (
    PIXTRAL,
    REQUIRED_GUARDS,
    T5,
    TOKENIZER_1,
    TOKENIZER_P1,
    UPSAMPLER_1,
    UPSAMPLER_P1,
)
from worldloop.cosmos.families import CONTROL_FEATURES, Task
from worldloop.cosmos.models.record import Model

_TASKS: tuple[Task, ...] = ("text2world", "video2world")


def cosmos1(size: str, task: Task) -> Model:
    """Cosmos 1.0 diffusion; shapes from diffusers' convert_cosmos_to_diffusers.py."""
    large, to_video = size == "14B", task == "video2world"
    title = "Video2World" if to_video else "Text2World"
    return Model(
        name=f"Cosmos-1.0-Diffusion-{size}-{title}",
        family="cosmos1",
        size=size,
        task=task,
        repo_id=f"nvidia/Cosmos-1.0-Diffusion-{size}-{title}",
        revision="main",
        params_b=14.26 if large else 7.24,
        num_layers=36 if large else 28,
        num_heads=40 if large else 32,
        head_dim=128,
        temporal_stride=8,
        tasks=("image2world", "video2world", "control2world") if to_video else ("text2world",),
        features=frozenset({"subject_name", "lora"})
        | (CONTROL_FEATURES | {"extend"} if to_video else frozenset()),
        needs=(T5, TOKENIZER_1),
        guards=REQUIRED_GUARDS,
        upsamplers=(PIXTRAL,) if to_video else (UPSAMPLER_1,),
        layouts=("original", "diffusers"),
        size_gb=28.5 if large else 14.5,
    )


def _predict1(size: str, task: Task) -> Model:
    base = cosmos1(size, task)
    title = "Video2World" if task == "video2world" else "Text2World"
    name = f"Cosmos-Predict1-{size}-{title}"
    return replace(
        base,
        name=name,
        family="predict1",
        repo_id=f"nvidia/{name}",
        needs=(T5, TOKENIZER_P1),
        upsamplers=(PIXTRAL,) if task == "video2world" else (UPSAMPLER_P1,),
        layouts=("original",),
    )


def cosmos1_line() -> Iterator[Model]:
    """All of them, by task."""
    sizes = ("7B", "14B")
    for task in _TASKS:
        yield from (cosmos1(size, task) for size in sizes)
        yield from (_predict1(size, task) for size in sizes)
