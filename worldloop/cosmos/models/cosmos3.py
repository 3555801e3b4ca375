"""Cosmos 3, with its distilled models and those of robots."""

from collections.abc import Iterator
from dataclasses import replace

from worldloop.cosmos.companions import OPTIONAL_GUARDS
from worldloop.cosmos.families import CONTROL_FEATURES, FAMILIES, ClipShape, Task
from worldloop.cosmos.models.record import Model

LICENCE_OPENMDW = "OpenMDW-1.1"  # README.md of NVIDIA/cosmos, commit aca7057

# layers, width, heads, kv heads, mlp width, parameters (B), of those in a denoising step (B)
NETS = {
    "Edge": (28, 2048, 16, 8, 9216, 4.0, 1.41),
    "Nano": (36, 4096, 32, 8, 12288, 16.0, 7.0),
    "Super": (64, 5120, 64, 8, 25600, 64.0, 31.2),
}


def cosmos3(
    size: str, name: str = "", *, task: Task = "text2world", revision: str = "main"
) -> Model:
    """A model of Cosmos 3 that can do everything; `name` is another name than that of its size."""
    layers, width, heads, kv_heads, mlp_width, params_b, active_b = NETS[size]
    family = FAMILIES["cosmos3"]
    everything = frozenset({"lora", "extend", "subject_name", "sound"}) | CONTROL_FEATURES
    actions = {"action_forward_dynamics", "action_inverse_dynamics", "action_policy"}
    return Model(
        name=name or f"Cosmos3-{size}",
        family="cosmos3",
        size=size,
        task=task,
        repo_id=f"nvidia/{name or f'Cosmos3-{size}'}",
        revision=revision,
        licence=LICENCE_OPENMDW,
        params_b=params_b,
        active_params_b=active_b,
        num_layers=layers,
        width=width,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=128,
        mlp_width=mlp_width,
        gated_mlp=True,
        text_encoder="",
        text_encoder_params_b=0.0,
        latent_channels=48,
        spatial_stride=16,
        tasks=family.tasks,
        features=everything | actions,
        guards=OPTIONAL_GUARDS,
        size_gb=2 * params_b + 3.0,
    )


def edge(model: Model) -> Model:
    """Edge has an MLP of two matrices and no sound; defaults of the cookbook's run_with_diffusers.ipynb."""
    return replace(
        model,
        gated_mlp=False,
        tasks=tuple(task for task in model.all_tasks if task != "sound"),
        features=model.features - {"sound"},
        shape=ClipShape(121, 832, 480, 24),
        num_steps=50,
        guidance=5.0,
    )


def cosmos3_distilled(name: str, *, task: Task) -> Model:
    """Distilled to four steps without guidance (cookbooks/cosmos3/generator/audiovisual/distill)."""
    return replace(
        cosmos3("Super", name, task=task),
        tasks=(task,),
        features=frozenset({"distilled"}),
        num_steps=4,
        guidance=1.0,
        samplers=("flow_euler",),
        shape=ClipShape(1, 1280, 720, 24) if task == "text2image" else None,
    )


def cosmos3_line() -> Iterator[Model]:
    """All of them, by size, then those for one thing."""
    # the sha that https://huggingface.co/api/models/nvidia/Cosmos3-Edge showed on 2026-08-26
    yield edge(cosmos3("Edge", revision="a9d944e2c6a1bf9f48b92ad16348e70c5f1836ba"))
    yield cosmos3("Nano")
    yield cosmos3("Super")
    still = ClipShape(1, 1280, 720, 24)
    text2image = cosmos3("Super", "Cosmos3-Super-Text2Image", task="text2image")
    yield replace(text2image, tasks=("text2image",), features=frozenset({"lora"}), shape=still)
    image2video = cosmos3("Super", "Cosmos3-Super-Image2Video", task="image2world")
    yield replace(image2video, tasks=("image2world",), features=frozenset({"lora", "extend"}))
    yield cosmos3_distilled("Cosmos3-Super-Text2Image-4Step", task="text2image")
    yield cosmos3_distilled("Cosmos3-Super-Image2Video-4Step", task="image2world")
    for size in ("Nano", "Edge"):
        policy = cosmos3(size, f"Cosmos3-{size}-Policy-DROID", task="action")
        policy = edge(policy) if size == "Edge" else policy
        yield replace(policy, tasks=("action",), features=frozenset({"action_policy"}))
