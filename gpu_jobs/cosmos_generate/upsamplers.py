"""Prompt upsamplers: language models that write prompts anew, one adapter an architecture.

All run through transformers, from a transformers folder; the 12B Mistral-NeMo upsampler also from
its original layout (`model.pt` and `config.json` with tokenizer files). Which one belongs to which
family, and when a prompt is left alone, is in `worldloop.cosmos.upsampling`. The likeliest token is
taken, so the same prompt gives the same words; with a temperature, words follow the seed.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldloop.cosmos.upsampling import Mode, UpsamplerKind, upsampler_kind
from worldloop.errors import ClipRejectedError, JobFailedError, MalformedRecordError

# The words that the model was fine-tuned on: cosmos_predict1/diffusion/prompt_upsampler/
# text2world_prompt_upsampler_inference.py:64, commit 4ed35fa.
MISTRAL_REQUEST = "Upsample the short caption to a long caption: "
PICTURE_REQUEST = (
    "This picture is the first frame of a video. Describe the video in one paragraph of at most 150 "
    "words: what is there, what moves and how, where the camera stands. Name only what can be seen, "
    "nothing about style and nothing that lies outside the picture."
)
REWRITE_REQUEST = (
    "You write prompts for a video model. You are given a short prompt, and a picture if there is one, "
    "with which the video begins. Write the prompt anew in English, in one paragraph of 80 to 100 "
    "words. Keep its meaning and everything in quotation marks. Add what the picture shows: subjects "
    "and how they look, what surrounds them, light, the style of the picture, the camera. Say clearly "
    "what moves and how, with plain verbs. Answer with the prompt alone."
)
MAX_PICTURE_PX = 1024  # .../video2world_prompt_upsampler_inference.py:63, commit 4ed35fa
QWEN_PIXELS = (
    256 * 28 * 28,
    1280 * 28 * 28,
)  # cosmos_predict2/auxiliary/cosmos_reason1.py, 661da47
_MODEL_TYPES = {"mistral": "mistral", "pixtral": "llava", "qwen2_5_vl": "qwen2_5_vl"}
_LABELS = ("Caption:", "#####", "####", "- ", "* ", ",")
_MARKED = re.compile(r"- \*\*(.*?)\*\*")
_MIN_MARKED_WORDS = 10
# Mistral-NeMo 12B: cosmos_predict1/autoregressive/configs/base/model_config.py:83-91,146-153, 4ed35fa.
_NEMO = {"head_dim": 128, "rope_theta": 1_000_000.0, "norm_eps": 1e-5, "max_seq_len": 128_000}


@dataclass
class LanguageUpsampler:
    """A loaded upsampler.

    Attributes:
        kind: What it is.
        reader: Its tokenizer or processor.
        parts: Its network as `model`.
        temperature: Of sampling; 0 takes the likeliest token.
        allowed_tokens: Tokens that it may say; None allows all.
    """

    kind: UpsamplerKind
    reader: Any
    parts: dict[str, Any]
    temperature: float = 0.0
    allowed_tokens: Any = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """Key in `UPSAMPLERS`."""
        return self.kind.name

    def upsample(
        self, prompt: str, frames: NDArray[np.uint8] | None, *, mode: Mode, seed: int = 0
    ) -> str:
        """Write a prompt anew.

        Args:
            prompt: The user's words; not read in mode `picture`.
            frames: Conditioning frames, RGB uint8 (T, H, W, 3); the last one is looked at.
            mode: What is read.
            seed: Of sampling, where the temperature is above 0.

        Raises:
            MalformedRecordError: If this model cannot read that, or there is nothing to read.
            ClipRejectedError: If its answer is empty; stage `upsample`.
        """
        self._check(prompt, frames, mode)
        picture = None if mode == "text" or frames is None else frames[-1]
        answer = self._generate(self._inputs(prompt, picture, mode), seed)
        written = clean_answer(answer)
        if not written:
            raise ClipRejectedError(
                "upsample",
                f"{self.name} answered {answer[:60]!r}, which holds no words. Try another prompt, or turn "
                "the upsampler off.",
            )
        return written

    def _check(self, prompt: str, frames: NDArray[np.uint8] | None, mode: Mode) -> None:
        if mode not in self.kind.modes:
            raise MalformedRecordError(
                f"mode of the prompt upsampler {self.name}",
                mode,
                f"one of {', '.join(self.kind.modes)}",
                "Choose another mode or another upsampler.",
            )
        if mode != "text" and (frames is None or not len(frames)):
            raise MalformedRecordError(
                f"picture for {self.name}",
                None,
                f"one, in mode {mode!r}",
                "Give a picture or video.",
            )
        if mode != "picture" and not prompt.strip():
            raise MalformedRecordError(
                f"prompt for {self.name}", prompt, f"words, in mode {mode!r}", "Give a prompt."
            )

    def _inputs(self, prompt: str, picture: NDArray[np.uint8] | None, mode: Mode) -> Any:
        """What the network reads."""
        messages = messages_for(self.kind, prompt, mode)
        text = self.reader.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        if self.kind.architecture == "mistral":
            return self.reader([text], add_special_tokens=False, return_tensors="pt")
        if picture is None:
            return self.reader(text=[text], return_tensors="pt")
        sizes = {}
        if self.kind.architecture == "qwen2_5_vl":
            least, most = QWEN_PIXELS
            sizes = {"images_kwargs": {"size": {"shortest_edge": least, "longest_edge": most}}}
        return self.reader(text=[text], images=[shrink(picture)], return_tensors="pt", **sizes)

    def _generate(self, inputs: Any, seed: int) -> str:
        import torch

        model = self.parts["model"]
        weight = next(model.parameters())
        inputs = {
            name: value.to(weight.device, weight.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
            if isinstance(value, torch.Tensor) and name != "token_type_ids"
        }
        length = inputs["input_ids"].shape[1]
        most = self.kind.max_new_tokens
        own = getattr(model.generation_config, "max_new_tokens", None)
        temperature = self.temperature if self.temperature > 0 else None
        devices = [weight.device] if weight.device.type == "cuda" else []
        with torch.inference_mode(), torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            output = model.generate(
                **inputs,
                temperature=temperature,
                top_p=None,
                top_k=None,
                max_new_tokens=min(most, own) if own else most,
                do_sample=self.temperature > 0,
                logits_processor=self._limits(),
                pad_token_id=self._tokenizer.eos_token_id,
            )
        return str(self._tokenizer.decode(output[0][length:], skip_special_tokens=True))

    @property
    def _tokenizer(self) -> Any:
        return getattr(self.reader, "tokenizer", self.reader)

    def _limits(self) -> list[Any]:
        """Keeps the answer within the allowed tokens."""
        if self.allowed_tokens is None:
            return []

        def within(_: Any, scores: Any) -> Any:
            allowed = self.allowed_tokens.to(scores.device)
            return scores.masked_fill(~allowed[: scores.shape[-1]], float("-inf"))

        return [within]


def load_upsampler(
    name: str, folder: Path, device: Any = "cpu", *, temperature: float | None = None
) -> LanguageUpsampler:
    """Load an upsampler.

    Args:
        name: Key in `UPSAMPLERS`, or a path that ends with one.
        folder: Its folder, or the folder of all models.
        device: Where the network goes; bf16 on a GPU, float32 on a CPU.
        temperature: Of sampling; None takes the published one.

    Raises:
        UnknownKeyError: If there is no such upsampler.
        MissingExtraError: If a package is not installed.
        JobFailedError: If the folder is missing, incomplete or of another model.
    """
    import torch

    from gpu_jobs.common.torch_ops import import_diffusers

    import_diffusers()
    kind = upsampler_kind(name)
    place = _find(kind, folder)
    _check_architecture(kind, place)
    dtype = torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32
    try:
        reader, model = _LOADERS[kind.architecture](place, dtype)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError) as error:
        raise JobFailedError(
            f"The prompt upsampler in {str(place)!r} cannot be loaded: {str(error)[:300]}. Download it "
            f"again: worldloop models download {kind.name}"
        ) from error
    if not reader.chat_template:
        raise JobFailedError(
            f"The prompt upsampler in {str(place)!r} has no chat template in its tokenizer files; it "
            f"would not be asked as it was trained. Download it again: worldloop models download {kind.name}"
        )
    return LanguageUpsampler(
        kind,
        reader,
        {"model": model.to(device, dtype=dtype).eval()},
        kind.temperature if temperature is None else temperature,
        ascii_tokens(reader.tokenizer) if kind.architecture == "qwen2_5_vl" else None,
    )


def messages_for(kind: UpsamplerKind, prompt: str, mode: Mode) -> list[dict[str, Any]]:
    """The conversation that asks for a prompt.

    Args:
        kind: The upsampler.
        prompt: The user's words; left out in mode `picture`.
        mode: What is read.
    """
    picture = [] if mode == "text" else [{"type": "image"}]
    if kind.architecture == "mistral":
        return [{"role": "user", "content": MISTRAL_REQUEST + prompt}]
    if mode == "picture":
        words = [{"type": "text", "text": PICTURE_REQUEST}]
        return [{"role": "user", "content": [*picture, *words]}]
    return [
        {"role": "system", "content": [{"type": "text", "text": REWRITE_REQUEST}]},
        {"role": "user", "content": [{"type": "text", "text": prompt}, *picture]},
    ]


def clean_answer(answer: str) -> str:
    r"""An answer as a prompt: one paragraph without headings, labels and quotation marks around it.

    Follows `clean_text` of text2world_prompt_upsampler_inference.py (commit 4ed35fa): short headings
    in bold go, long ones stay.

    Example:
        >>> clean_answer('Caption: "A tram\nrings."')
        'A tram rings.'
    """
    text = answer.replace("\r", " ").replace("\n", " ").strip()
    text = _MARKED.sub(
        lambda m: m[0] if len(re.findall(r"\w+", m[1])) >= _MIN_MARKED_WORDS else "", text
    ).lstrip()
    for label in _LABELS:
        text = text.removeprefix(label).lstrip()
    return " ".join(text.split()).strip(" -,*:\"'“”")


def shrink(picture_HWC: NDArray[np.uint8], *, most_px: int = MAX_PICTURE_PX) -> Any:
    """A PIL picture with no side over `most_px`.

    Example:
        >>> shrink(np.zeros((100, 2048, 3), np.uint8)).size
        (1024, 50)
    """
    from PIL import Image

    picture = Image.fromarray(picture_HWC)
    ratio = max(picture.size) / most_px
    if ratio <= 1:
        return picture
    width, height = (-int(-side // ratio) for side in picture.size)
    return picture.resize((width, height))


def ascii_tokens(tokenizer: Any) -> Any:
    """Which tokens are plain ASCII or special, bool (tokens,), so that answers are English letters."""
    import torch

    texts = tokenizer.batch_decode([[index] for index in range(len(tokenizer))])
    allowed = torch.tensor([text.isascii() for text in texts])
    allowed[tokenizer.all_special_ids] = True
    return allowed


def nemo_weights(saved: Mapping[str, Any], *, head_dim: int) -> dict[str, Any]:
    """Weights of the original layout under the names of transformers.

    Queries and keys are stored there for rotary embeddings over neighbouring pairs, in transformers
    for pairs half a head apart: their rows change places (autoregressive/utils/checkpoint.py,
    permute_weight, commit 4ed35fa).

    Args:
        saved: State dict of `model.pt`.
        head_dim: Width of a head.
    """
    names = {
        "tok_embeddings": "model.embed_tokens",
        "norm": "model.norm",
        "output": "lm_head",
        "attention.wq": "self_attn.q_proj",
        "attention.wk": "self_attn.k_proj",
        "attention.wv": "self_attn.v_proj",
        "attention.wo": "self_attn.o_proj",
        "feed_forward.w1": "mlp.gate_proj",
        "feed_forward.w2": "mlp.down_proj",
        "feed_forward.w3": "mlp.up_proj",
        "attention_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
    }
    renamed = {}
    for key, value in saved.items():
        stem, _, suffix = key.removeprefix("model.").rpartition(".")
        if suffix != "weight":
            continue  # buffers of rotary embeddings
        layer = re.fullmatch(r"layers\.(\d+)\.(.+)", stem)
        name = f"model.layers.{layer[1]}.{names[layer[2]]}" if layer else names[stem]
        if stem.endswith(("attention.wq", "attention.wk")):
            pairs = value.reshape(-1, head_dim // 2, 2, value.shape[1])
            value = pairs.transpose(1, 2).reshape(value.shape)
        renamed[f"{name}.weight"] = value
    return renamed


def _find(kind: UpsamplerKind, folder: Path) -> Path:
    places = [folder, folder / kind.name, folder / kind.name.rpartition("/")[2]]
    for place in places:
        if (place / "config.json").is_file():
            return place
    if any((place / "params.json").is_file() for place in places):
        raise JobFailedError(
            f"{kind.name} in {str(folder)!r} has the layout of its makers (params.json); this needs the one "
            "of transformers (config.json), e.g. the repository mistral-community/pixtral-12b."
        )
    raise JobFailedError(
        f"The prompt upsampler {kind.name} is not in {str(folder)!r}; it needs a folder with config.json. "
        f"Get it with: worldloop models download {kind.name}, or use --disable_prompt_upsampler."
    )


def _check_architecture(kind: UpsamplerKind, folder: Path) -> None:
    """Refuse another model before its sizes are allocated."""
    if kind.architecture == "mistral" and (folder / "model.pt").is_file():
        return
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except ValueError as error:
        found = str(error)
    if found != _MODEL_TYPES[kind.architecture]:
        raise JobFailedError(
            f"{str(folder)!r} holds a model of type {found!r}; {kind.name} is of type "
            f"{_MODEL_TYPES[kind.architecture]!r}. Download it again: worldloop models download {kind.name}"
        )


def _load_mistral(folder: Path, dtype: Any) -> tuple[Any, Any]:
    from transformers import AutoTokenizer, MistralForCausalLM

    reader = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if (folder / "model.pt").is_file():
        return reader, _load_nemo(folder, dtype)
    return reader, MistralForCausalLM.from_pretrained(folder, local_files_only=True, dtype=dtype)


def _load_nemo(folder: Path, dtype: Any) -> Any:
    """The 12B upsampler from `model.pt`; sizes are those of its weights."""
    import torch
    from accelerate import init_empty_weights
    from transformers import MistralConfig, MistralForCausalLM

    said = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    known = {name: said.get(name, value) for name, value in _NEMO.items()}
    saved = torch.load(folder / "model.pt", map_location="cpu", mmap=True, weights_only=True)
    weights = nemo_weights(saved.get("model", saved), head_dim=known["head_dim"])
    table, prefix = weights["model.embed_tokens.weight"], "model.layers.0."
    config = MistralConfig(
        vocab_size=table.shape[0],
        hidden_size=table.shape[1],
        intermediate_size=weights[prefix + "mlp.gate_proj.weight"].shape[0],
        num_hidden_layers=sum(key.endswith("input_layernorm.weight") for key in weights),
        num_attention_heads=weights[prefix + "self_attn.q_proj.weight"].shape[0]
        // known["head_dim"],
        num_key_value_heads=weights[prefix + "self_attn.k_proj.weight"].shape[0]
        // known["head_dim"],
        head_dim=known["head_dim"],
        rms_norm_eps=known["norm_eps"],
        max_position_embeddings=known["max_seq_len"],
        rope_parameters={"rope_type": "default", "rope_theta": known["rope_theta"]},
        sliding_window=None,
        tie_word_embeddings=False,
    )
    with init_empty_weights(include_buffers=False):  # 24 GB of random numbers would be for nothing
        model = MistralForCausalLM(config)
    model.load_state_dict(weights, assign=True)
    return model.to(dtype)


def _load_pixtral(folder: Path, dtype: Any) -> tuple[Any, Any]:
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    reader = AutoProcessor.from_pretrained(folder, local_files_only=True)
    model = LlavaForConditionalGeneration.from_pretrained(
        folder, local_files_only=True, dtype=dtype
    )
    return reader, model


def _load_qwen(folder: Path, dtype: Any) -> tuple[Any, Any]:
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    reader = AutoProcessor.from_pretrained(folder, local_files_only=True)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        folder, local_files_only=True, dtype=dtype
    )
    return reader, model


_LOADERS = {"mistral": _load_mistral, "pixtral": _load_pixtral, "qwen2_5_vl": _load_qwen}
