"""A tiny guardrail folder in the published layout: a few words, and small networks of the real kinds."""

from pathlib import Path

import torch

from gpu_jobs.common.torch_ops import import_diffusers
from gpu_jobs.cosmos_generate.guardrails.content import CLASSES, SIGLIP, WEIGHTS, SafetyClassifier
from gpu_jobs.cosmos_generate.guardrails.faces import WEIGHTS as FACE_WEIGHTS
from gpu_jobs.cosmos_generate.guardrails.faces import RetinaFace
from gpu_jobs.cosmos_generate.guardrails.llm import KINDS
from gpu_jobs.cosmos_generate.tiny.speakers import write_speaker
from gpu_jobs.cosmos_generate.tiny.text import seeded

WORDS = {
    "custom": "stab\nmurder\nhand grenade\n",
    "exact_match": "corpse\n",
    "whitelist": "murder mystery\n",
}
SAFE = {"aegis": "safe", "llama_guard": "safe", "qwen3guard": "Safety: Safe\nCategories: None"}
_WORDNET = {
    "index.noun": "  1 A licence stands here.\nstab n 1 0 1 0 00000001\nknife n 1 0 1 0 00000002\ngrenade n 1 0 1 0 00000005\n",
    "noun.exc": "knives knife\n",
    "index.verb": "stab v 1 0 1 0 00000003\nmurder v 1 0 1 0 00000004\n",
    "verb.exc": "stabbed stab\nstabbing stab\n",
}
_FEATURE = 32
_SIDE_PX, _PATCH_PX = 28, 14


def write_tiny_guardrail(
    folder: Path,
    *,
    seed: int = 0,
    says: dict[str, str] | None = None,
    content_class: int = 0,
    sees_faces: bool = False,
) -> None:
    """Write the folder, as `Cosmos-1.0-Guardrail` and the language models in it.

    Args:
        folder: Where to.
        seed: Of the random weights.
        says: What each language model answers; left out, it says that all is safe.
        content_class: What the content filter sees in every frame, an index of `CLASSES`.
        sees_faces: Whether the face detector sees a face everywhere, or nowhere.
    """
    write_tiny_blocklist(folder / "blocklist")
    for name in KINDS:
        write_tiny_llm_guard(folder, name, says={**SAFE, **(says or {})}[name])
    seeded(seed, lambda: write_tiny_content(folder / "video_content_safety_filter", content_class))
    seeded(seed, lambda: write_tiny_faces(folder / "face_blur_filter", sees_faces=sees_faces))


def write_tiny_blocklist(folder: Path) -> None:
    """Write `blocklist/` with three words and a WordNet of three."""
    for sub, words in WORDS.items():
        (folder / sub).mkdir(parents=True, exist_ok=True)
        (folder / sub / "words").write_text(words, encoding="utf-8")
    wordnet = folder / "nltk_data" / "corpora" / "wordnet"
    wordnet.mkdir(parents=True, exist_ok=True)
    for name, text in _WORDNET.items():
        (wordnet / name).write_text(text, encoding="utf-8")


def write_tiny_llm_guard(folder: Path, name: str, *, says: str) -> None:
    """Write one language model, where the published code keeps it.

    Args:
        folder: The guardrail folder.
        name: Key in `KINDS`.
        says: Its answer to everything.
    """
    kind = KINDS[name]
    place = folder / kind.repo_id
    if kind.subfolders:
        place = cached(folder / kind.subfolders[0], kind.repo_id)
    architecture = "qwen3" if name == "qwen3guard" else "llama"
    write_speaker(place, says=says, architecture=architecture, chat=kind.chat)
    if kind.adapter_repo_id:
        _write_adapter(place, cached(folder / kind.subfolders[0], kind.adapter_repo_id))


def cached(root: Path, repo_id: str) -> Path:
    """Where a download cache below `root` keeps the tiny revision of a repository."""
    return root / ("models--" + repo_id.replace("/", "--")) / "snapshots" / "tiny"


def _write_adapter(base: Path, folder: Path) -> None:
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    targets = ["q_proj", "v_proj"]
    model.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    model.save_pretrained(folder)


def write_tiny_content(folder: Path, content_class: int = 0) -> None:
    """Write `video_content_safety_filter/` that sees the same in every frame."""
    import_diffusers()
    from transformers import SiglipConfig, SiglipModel

    tower = {
        "hidden_size": _FEATURE,
        "intermediate_size": _FEATURE,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    config = SiglipConfig(
        vision_config={**tower, "image_size": _SIDE_PX, "patch_size": _PATCH_PX},
        text_config={**tower, "vocab_size": 32},
    )
    SiglipModel(config).save_pretrained(cached(folder, SIGLIP))
    classifier = SafetyClassifier(_FEATURE, len(CLASSES))
    with torch.no_grad():
        classifier.layers[-1].bias[content_class] = 100.0
    weights = {f"network.{key}": value for key, value in classifier.state_dict().items()}
    torch.save({"model": weights}, folder / WEIGHTS)


def write_tiny_faces(folder: Path, *, sees_faces: bool = False) -> None:
    """Write `face_blur_filter/` that sees a face everywhere or nowhere."""
    folder.mkdir(parents=True, exist_ok=True)
    network = RetinaFace(stem=8, planes=(4, 4, 8, 8), depths=(1, 1, 1, 1), width=16)
    with torch.no_grad():
        for head in network.ClassHead:
            head.conv1x1.bias.copy_(
                torch.tensor([-50.0, 50.0] if sees_faces else [50.0, -50.0]).repeat(2)
            )
    weights = {f"module.{key}": value for key, value in network.state_dict().items()}
    torch.save(weights, folder / FACE_WEIGHTS)
