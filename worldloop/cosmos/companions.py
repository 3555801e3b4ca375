"""Companions: folders that models need beside their own, where they come from, and how large they are.

Text encoders, video tokenizers, prompt upsamplers and guardrails. Sources and revisions are as in
`worldloop.cosmos.models`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from worldloop.errors import UnknownKeyError

Role = Literal["text_encoder", "tokenizer", "prompt_upsampler", "guardrail"]

LICENCE_NVIDIA = "NVIDIA Open Model License"

T5 = "google-t5/t5-11b"
TOKENIZER_1 = "Cosmos-1.0-Tokenizer-CV8x8x8"
TOKENIZER_P1 = "Cosmos-Tokenize1-CV8x8x8-720p"
UPSAMPLER_1 = "Cosmos-1.0-Prompt-Upsampler-12B-Text2World"
UPSAMPLER_P1 = "Cosmos-UpsamplePrompt1-12B-Text2World"
PIXTRAL = "Pixtral-12B"
QWEN_VL = "Qwen/Qwen2.5-VL-7B-Instruct"
REASON1 = "Cosmos-Reason1-7B"
GUARDRAIL_1 = "Cosmos-1.0-Guardrail"
GUARDRAIL1 = "Cosmos-Guardrail1"
LLAMA_GUARD = "meta-llama/Llama-Guard-3-8B"
LLAMA_GUARD_1 = "meta-llama/LlamaGuard-7b"
SIGLIP = "google/siglip-so400m-patch14-384"
AEGIS = "nvidia/Aegis-AI-Content-Safety-LlamaGuard-Defensive-1.0"
# what `worldloop.cosmos.guards.default_guards` runs, by whether guards can be turned off
REQUIRED_GUARDS = (GUARDRAIL_1, LLAMA_GUARD_1, AEGIS, SIGLIP)
OPTIONAL_GUARDS = (GUARDRAIL1, LLAMA_GUARD, SIGLIP)
_JIT = ("*.jit", "mean_std.pt", "config.json", "*.safetensors", "README.md")
_UPSAMPLER_FILES = (
    "model.pt",
    "config.json",
    "README.md",
    "tokenizer*",
    "special_tokens_map.json",
    "chat_template*",
)


@dataclass(frozen=True)
class Companion:
    """A folder that models need beside their own.

    Attributes:
        name: Folder in `checkpoint_dir`.
        role: What it is for.
        repo_id: Repository on the hub.
        revision: Commit, or a branch that is resolved and locked at the first download.
        gated: Whether its page asks to accept a licence first.
        licence: Name of its licence.
        files: Patterns of the files that are needed; empty takes all.
        ignore: Patterns of files that are not.
        size_gb: About how much disk it takes, from its page or its parameter count.
        required: Files or folders without which it is of no use.
    """

    name: str
    role: Role
    repo_id: str
    revision: str = "main"
    gated: bool = False
    licence: str = LICENCE_NVIDIA
    files: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    size_gb: float = 0.0
    required: tuple[str, ...] = ()


COMPANIONS: Mapping[str, Companion] = MappingProxyType(
    {
        companion.name: companion
        for companion in (
            Companion(
                T5,
                "text_encoder",
                "google-t5/t5-11b",
                "90f37703b3334dfe9d2b009bfcbfbf1ac9d28ea3",  # cosmos-predict2 scripts/download_checkpoints.py
                licence="Apache-2.0",
                ignore=("tf_model.h5",),
                size_gb=45.2,
                required=("config.json", "pytorch_model.bin"),
            ),
            Companion(
                TOKENIZER_1,
                "tokenizer",
                "nvidia/Cosmos-1.0-Tokenizer-CV8x8x8",
                files=_JIT,
                size_gb=0.3,
                required=("decoder.jit", "encoder.jit", "mean_std.pt"),
            ),
            Companion(
                TOKENIZER_P1,
                "tokenizer",
                "nvidia/Cosmos-Tokenize1-CV8x8x8-720p",
                files=_JIT,
                size_gb=0.3,
                required=("decoder.jit", "encoder.jit", "mean_std.pt"),
            ),
            Companion(
                UPSAMPLER_1,
                "prompt_upsampler",
                "nvidia/Cosmos-1.0-Prompt-Upsampler-12B-Text2World",
                files=_UPSAMPLER_FILES,
                size_gb=24.5,
                required=("model.pt", "config.json"),
            ),
            Companion(
                UPSAMPLER_P1,
                "prompt_upsampler",
                "nvidia/Cosmos-UpsamplePrompt1-12B-Text2World",
                files=_UPSAMPLER_FILES,
                size_gb=24.5,
                required=("model.pt", "config.json"),
            ),
            Companion(
                PIXTRAL,
                "prompt_upsampler",
                # mistralai/Pixtral-12B-2409 in the layout of transformers, which the adapter loads
                "mistral-community/pixtral-12b",
                licence="Apache-2.0",
                size_gb=25.4,
                required=("config.json",),
            ),
            Companion(
                QWEN_VL,
                "prompt_upsampler",
                "Qwen/Qwen2.5-VL-7B-Instruct",
                licence="Apache-2.0",
                size_gb=16.6,
                required=("config.json",),
            ),
            Companion(
                REASON1,
                "text_encoder",
                "nvidia/Cosmos-Reason1-7B",
                "3210bec0495fdc7a8d3dbb8d58da5711eab4b423",  # cosmos-predict2.5 checkpoint_db.py:239
                size_gb=16.6,
                required=("config.json",),
            ),
            Companion(
                GUARDRAIL_1,
                "guardrail",
                "nvidia/Cosmos-1.0-Guardrail",
                gated=True,
                size_gb=0.7,
                required=(
                    "aegis",
                    "blocklist",
                    "face_blur_filter",
                    "video_content_safety_filter",
                ),
            ),
            Companion(
                GUARDRAIL1,
                "guardrail",
                "nvidia/Cosmos-Guardrail1",
                "d6d4bfa899a71454a700907664f3e88f503950cf",  # cosmos-predict2 scripts/download_checkpoints.py
                gated=True,
                size_gb=0.7,
                required=("blocklist", "face_blur_filter", "video_content_safety_filter"),
            ),
            Companion(
                LLAMA_GUARD,
                "guardrail",
                "meta-llama/Llama-Guard-3-8B",
                "7327bd9f6efbbe6101dc6cc4736302b3cbb6e425",  # cosmos-predict2 scripts/download_checkpoints.py
                gated=True,
                licence="Llama 3.1 Community License",
                ignore=("original/*",),
                size_gb=16.1,
                required=("config.json",),
            ),
            Companion(
                LLAMA_GUARD_1,
                "guardrail",
                "meta-llama/LlamaGuard-7b",
                gated=True,
                licence="Llama 2 Community License",
                ignore=("original/*", "*.bin"),
                size_gb=13.5,
                required=("config.json",),
            ),
            Companion(
                # an adapter on LlamaGuard-7b; the guardrail folder of Cosmos 1.0 may hold it already
                AEGIS,
                "guardrail",
                AEGIS,
                licence="Llama 2 Community License",
                size_gb=0.1,
                required=("adapter_config.json",),
            ),
            Companion(
                SIGLIP,
                "guardrail",
                "google/siglip-so400m-patch14-384",
                licence="Apache-2.0",
                size_gb=3.5,
                required=("config.json",),
            ),
            Companion(
                "Qwen/Qwen3Guard-Gen-0.6B",  # by choice, instead of a Llama Guard: small and not gated
                "guardrail",
                "Qwen/Qwen3Guard-Gen-0.6B",
                licence="Apache-2.0",
                size_gb=1.5,
                required=("config.json",),
            ),
        )
    }
)


def companion(name: str) -> Companion:
    """The companion folder with a name.

    Raises:
        UnknownKeyError: If there is none.
    """
    if name not in COMPANIONS:
        raise UnknownKeyError("companion folder", name, COMPANIONS)
    return COMPANIONS[name]
