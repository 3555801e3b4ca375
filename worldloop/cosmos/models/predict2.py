"""Predict2, Predict2.5 and Transfer2.5, which have the same transformers."""

from collections.abc import Iterator
from dataclasses import replace

from worldloop.cosmos.companions import OPTIONAL_GUARDS, QWEN_VL, REASON1, T5
from worldloop.cosmos.families import CONTROL_FEATURES, ClipShape, Task
from worldloop.cosmos.models.record import Model

# num_blocks, num_heads, head_dim, parameters (B): cosmos-predict2 configs/base/config_{text2image,video2world}.py
NETS = {
    "0.6B": (20, 20, 64, 0.60),
    "2B": (28, 16, 128, 1.96),
    "14B": (36, 40, 128, 14.26),
}
# REPO_ID_MAPPING of cosmos-predict2 scripts/download_checkpoints.py, commit 661da47
REVISIONS = {
    "Cosmos-Predict2-0.6B-Text2Image": "80e9f1599778499e9b5435179861871b5a3561d4",
    "Cosmos-Predict2-2B-Text2Image": "acdb5fde992a73ef0355f287977d002cbfd127e0",
    "Cosmos-Predict2-14B-Text2Image": "015332720f70dd7b497c1cff9fd0c936a77f160b",
    "Cosmos-Predict2-2B-Video2World": "f50c09f5d8ab133a90cac3f4886a6471e9ba3f18",
    "Cosmos-Predict2-14B-Video2World": "03b03a377fede782647afac998f674d9f358e319",
}


def predict2(size: str, task: Task) -> Model:
    """Text2Image or Video2World."""
    layers, heads, head_dim, params_b = NETS[size]
    to_video = task == "video2world"
    name = f"Cosmos-Predict2-{size}-{'Video2World' if to_video else 'Text2Image'}"
    files = ("model-720p-16fps.pt", "tokenizer/*") if to_video else ("model.pt", "tokenizer/*")
    return Model(
        name=name,
        family="predict2",
        size=size,
        task=task,
        repo_id=f"nvidia/{name}",
        revision=REVISIONS[name],
        params_b=params_b,
        num_layers=layers,
        num_heads=heads,
        head_dim=head_dim,
        tasks=("image2world", "video2world") if to_video else ("text2image",),
        features=frozenset({"subject_name", "lora"} | ({"extend"} if to_video else set())),
        needs=(T5,),
        guards=OPTIONAL_GUARDS,
        upsamplers=(QWEN_VL,) if to_video else (),
        layouts=("original",) if size == "0.6B" else ("diffusers", "original"),
        original_files=files,
        size_gb=2 * params_b + (0.5 if size == "0.6B" else 10.0),
        # Cosmos2TextToImagePipeline.__call__ of diffusers 0.42.1: 768 x 1360
        shape=None if to_video else ClipShape(1, 1360, 768, 16),
    )


def _predict2_variant(size: str, height_p: int, rate_fps: int) -> Model:
    """Video2World of another resolution or frame rate; they exist in the original layout only."""
    base = predict2(size, "video2world")
    width_px, height_px = {480: (832, 480), 720: (1280, 704)}[height_p]
    return replace(
        base,
        name=f"{base.name}-{height_p}p-{rate_fps}fps",
        layouts=("original",),
        original_files=(f"model-{height_p}p-{rate_fps}fps.pt", "tokenizer/*"),
        size_gb=2 * base.params_b + 0.5,
        variant=True,
        shape=ClipShape(93, width_px, height_px, rate_fps),
    )


# packages/cosmos-oss/cosmos_oss/checkpoints_predict2.py of cosmos-transfer2.5, commit 2ff49d0
ORIGINALS = {
    ("2B", "pre-trained"): "15a82a2ec231bc318692aa0456a36537c806e7d4",
    ("2B", "post-trained"): "15a82a2ec231bc318692aa0456a36537c806e7d4",
    ("14B", "pre-trained"): "03eb354f35eae0d6e0c1be3c9f94d8551e125570",
    ("14B", "post-trained"): "2bc4ca5ba5a20b9858a7ddb856bc82d70b030fbe",
}


def predict25(size: str, stage: str) -> Model:
    """Predict2.5 of a stage of its training, `pre-trained` or `post-trained`."""
    layers, heads, head_dim, params_b = NETS[size]
    suffix = "" if stage == "post-trained" else "-Pre-Trained"
    return Model(
        name=f"Cosmos-Predict2.5-{size}{suffix}",
        family="predict2.5",
        size=size,
        task="video2world",
        repo_id=f"nvidia/Cosmos-Predict2.5-{size}",
        # docs/source/en/api/pipelines/cosmos.md of diffusers: a branch, locked at the first download
        revision=f"diffusers/base/{stage}",
        params_b=params_b,
        num_layers=layers,
        num_heads=heads,
        head_dim=head_dim,
        text_encoder="reason1-7b",
        text_encoder_params_b=8.29,
        tasks=("text2image", "text2world", "image2world", "video2world"),
        features=frozenset({"subject_name", "lora", "extend"}),
        needs=(REASON1,),
        guards=OPTIONAL_GUARDS,
        upsamplers=(QWEN_VL,),
        layouts=("diffusers", "original"),
        original_files=(f"base/{stage}/*.pt", "tokenizer.pth"),
        original_revision=ORIGINALS[size, stage],
        variant=stage != "post-trained",
        size_gb=2 * params_b + 17.0,
    )


def transfer25() -> Model:
    """Transfer2.5: Predict2.5 with control networks."""
    base = predict25("2B", "post-trained")
    return replace(
        base,
        name="Cosmos-Transfer2.5-2B",
        family="transfer2.5",
        task="control2world",
        tasks=("control2world",),
        repo_id="nvidia/Cosmos-Transfer2.5-2B",
        revision="diffusers/general",
        # 28 blocks and a control branch of four: Cosmos-Transfer2.5 in diffusers' convert script
        params_b=2.36,
        features=base.features | CONTROL_FEATURES,
        upsamplers=(),
        original_files=("general/*/*.pt",),
        # checkpoints_transfer2.py of cosmos-transfer2.5, commit 2ff49d0
        original_revision="bd963eabcfc2d61dc4ea365cacf41d45ac480aa5",
        size_gb=23.0,
    )


def predict2_line() -> Iterator[Model]:
    """All of them, by task and size."""
    yield from (predict2(size, "text2image") for size in ("0.6B", "2B", "14B"))
    for size in ("2B", "14B"):
        yield predict2(size, "video2world")
        for height_p, rate_fps in ((480, 10), (480, 16), (720, 10), (720, 16)):
            yield _predict2_variant(size, height_p, rate_fps)
        yield predict25(size, "post-trained")
        yield predict25(size, "pre-trained")
    yield transfer25()
