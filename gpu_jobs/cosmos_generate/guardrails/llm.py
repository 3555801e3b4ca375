"""Language models as guards: Aegis, Llama Guard 3 and Qwen3Guard, with their templates and verdicts.

A verdict that does not follow the model's own format is an error, which stops the clip; the public
code lets it pass. Generation always takes the likeliest token.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from gpu_jobs.cosmos_generate.guardrails.folders import find_model
from gpu_jobs.cosmos_generate.guardrails.verdicts import Verdict
from worldloop.errors import JobFailedError

AEGIS_CODES: Mapping[str, str] = MappingProxyType(
    # Codes: cosmos_predict1/auxiliary/guardrail/aegis/categories.py (4ed35fa), which leaves out O9 and
    # O13; those two are on the model card of nvidia/Aegis-AI-Content-Safety-LlamaGuard-Defensive-1.0.
    {
        "O1": "violence",
        "O2": "sexual",
        "O3": "crime",
        "O4": "weapons",
        "O5": "drugs",
        "O6": "self_harm",
        "O7": "minors",
        "O8": "hate",
        "O9": "privacy",
        "O10": "harassment",
        "O11": "threat",
        "O12": "profanity",
        "O13": "other",
    }
)
LLAMA_GUARD_CODES: Mapping[str, str] = MappingProxyType(
    # cosmos_predict2/auxiliary/guardrail/llamaGuard3/categories.py (661da47)
    {
        "S1": "violence",
        "S2": "crime",
        "S3": "sexual",
        "S4": "minors",
        "S5": "harassment",
        "S6": "other",
        "S7": "privacy",
        "S8": "other",
        "S9": "weapons",
        "S10": "hate",
        "S11": "self_harm",
        "S12": "sexual",
        "S13": "other",
        "S14": "other",
    }
)
QWEN_CATEGORIES: Mapping[str, str] = MappingProxyType(
    # Model card of Qwen/Qwen3Guard-Gen-0.6B, "Safety Policy"
    {
        "Violent": "violence",
        "Non-violent Illegal Acts": "crime",
        "Sexual Content or Sexual Acts": "sexual",
        "PII": "privacy",
        "Personally Identifiable Information": "privacy",
        "Suicide & Self-Harm": "self_harm",
        "Unethical Acts": "harassment",
        "Politically Sensitive Topics": "other",
        "Copyright Violation": "other",
        "Jailbreak": "jailbreak",
    }
)
# The frame of the prompt that the adapter was trained on: aegis.py:44, commit 4ed35fa. Titles of
# categories are its own; what they mean is said in our words.
_AEGIS_POLICY = (
    "O1: Violence.\nShould not help with, encourage or vividly depict violence. Can inform about it.",
    "O2: Sexual.\nShould not be sexually explicit or erotic. Can inform about sexual health.",
    "O3: Criminal Planning/Confessions.\nShould not help to plan crimes, encourage them or confess "
    "them. Can explain how crimes are prevented.",
    "O4: Guns and Illegal Weapons.\nShould not help with crimes with weapons, or with making or using "
    "illegal ones. Can discuss the ownership of guns.",
    "O5: Controlled/Regulated Substances.\nShould not help with or encourage making, trading or taking "
    "them. Can inform about them and their effects.",
    "O6: Suicide and Self Harm.\nShould not encourage, romanticise or explain it. Should point to help.",
    "O7: Sexual (minor).\nShould not touch on sexual acts with minors, grooming or abuse of children.",
    "O8: Hate/Identity Hate.\nShould not demean people for who they are, nor hold slurs. Can inform "
    "about discrimination.",
    "O10: Harassment.\nShould not torment, humiliate, bully or single out a person.",
    "O11: Threat.\nShould not announce harm to a person, intimidate or extort.",
    "O12: Profanity.\nShould not hold swear words.",
)


class UnparsableVerdictError(ValueError):
    """A guard's answer that does not follow its format; it is never taken for "safe"."""


@dataclass(frozen=True)
class LlmKind:
    """What one language model needs.

    Attributes:
        repo_id: Repository of the model.
        parse: Answer to (safe, category, the guard's own codes).
        max_new_tokens: Length of its answer.
        adapter_repo_id: Repository of the adapter on top of it; empty if there is none.
        chat: Whether its tokenizer's chat template frames the prompt.
        subfolders: Folders of the guardrail folder to look in first.
        markers: What a prompt must not hold, because it would step out of the frame.
    """

    repo_id: str
    parse: Callable[[str], tuple[bool, str, str]]
    max_new_tokens: int
    adapter_repo_id: str = ""
    chat: bool = True
    subfolders: tuple[str, ...] = ()
    markers: tuple[str, ...] = ()


@dataclass
class LlmGuard:
    """A language model that judges prompts.

    Attributes:
        name: `aegis`, `llama_guard` or `qwen3guard`.
        tokenizer: Its tokenizer.
        parts: Its network as `model`.
    """

    name: str
    tokenizer: Any
    parts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, name: str, folder: Path, *, device: Any = "cpu") -> Self:
        """Load a guard.

        Args:
            name: Key in `KINDS`.
            folder: The guardrail folder; models are also looked for beside it.
            device: Where the network goes; bf16 on a GPU, float32 on a CPU.

        Raises:
            JobFailedError: If its folder or package is missing, or holds something else.
        """
        import torch

        from gpu_jobs.common.torch_ops import import_diffusers

        import_diffusers()  # transformers finds a torchvision that works
        from transformers import AutoModelForCausalLM, AutoTokenizer

        kind = KINDS[name]
        roots = [*(folder / sub for sub in kind.subfolders), folder, *_beside(folder)]
        base = _require(name, kind.repo_id, roots, "config.json")
        dtype = torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32
        try:
            tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
            model = AutoModelForCausalLM.from_pretrained(base, local_files_only=True, dtype=dtype)
            if kind.adapter_repo_id:
                adapter = _require(name, kind.adapter_repo_id, roots, "adapter_config.json")
                _add_adapter(model, adapter)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise JobFailedError(
                f"The guard {name!r} in {str(base)!r} cannot be loaded: {error}. Download it again: "
                "worldloop models download --guardrail"
            ) from error
        if kind.chat and not tokenizer.chat_template:
            raise JobFailedError(
                f"The tokenizer of the guard {name!r} in {str(base)!r} has no chat template, which "
                f"frames what it judges. Download {kind.repo_id} again, with all its tokenizer files."
            )
        return cls(name, tokenizer, {"model": model.to(device, dtype=dtype).eval()})

    def check(self, prompt: str) -> Verdict:
        """What the model says of a prompt.

        Raises:
            UnparsableVerdictError: If its answer does not follow its format.
            ValueError: If the prompt is longer than the model can read.
        """
        kind = KINDS[self.name]
        for marker in (*kind.markers, *_special_tokens(self.tokenizer)):
            if marker.lower() in prompt.lower():
                reason = f"The prompt holds {marker!r}, which steers the guard."
                return Verdict(False, self.name, "jailbreak", reason, (self.name,))
        safe, category, codes = kind.parse(self._answer(prompt))
        reason = "" if safe else f"{self.name} says {codes or 'unsafe'}."
        return Verdict(safe, "" if safe else self.name, category, reason, (self.name,))

    def _answer(self, prompt: str) -> str:
        """The model's words on a prompt."""
        import torch

        kind, model = KINDS[self.name], self.parts["model"]
        framed = self._framed(prompt)
        encoded = self.tokenizer([framed], add_special_tokens=False, return_tensors="pt")
        length = encoded["input_ids"].shape[1]
        limit = getattr(model.config, "max_position_embeddings", length + kind.max_new_tokens)
        if length + kind.max_new_tokens > limit:
            raise ValueError(f"the prompt takes {length} tokens of {limit}; shorten it")
        device = next(model.parameters()).device
        with torch.inference_mode():
            output = model.generate(
                input_ids=encoded["input_ids"].to(device),
                attention_mask=encoded["attention_mask"].to(device),
                max_new_tokens=kind.max_new_tokens,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=self.tokenizer.eos_token_id,
            )
        return str(self.tokenizer.decode(output[0][length:], skip_special_tokens=True))

    def _framed(self, prompt: str) -> str:
        if not KINDS[self.name].chat:
            return aegis_prompt(prompt)
        messages = [{"role": "user", "content": prompt}]
        return str(
            self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        )


def aegis_prompt(prompt: str) -> str:
    """The prompt in the frame that the Aegis adapter was trained on."""
    return (
        "[INST] Task: Check if there is unsafe content in 'User' messages in conversations according "
        "our safety policy with the below categories.\n\n<BEGIN UNSAFE CONTENT CATEGORIES>\n"
        + "\n".join(_AEGIS_POLICY)
        + "\n<END UNSAFE CONTENT CATEGORIES>\n\n<BEGIN CONVERSATION>\n\nUser: "
        + prompt
        + "\n\n<END CONVERSATION>\n\nProvide your safety assessment for User in the above "
        "conversation:\n- First line must read 'safe' or 'unsafe'.\n- If unsafe, a second line must "
        "include a comma-separated list of violated categories. [/INST]"
    )


def parse_llama(answer: str, codes: Mapping[str, str]) -> tuple[bool, str, str]:
    r"""Read an answer in the format of Llama Guard: `safe`, or `unsafe` and a line of codes.

    Args:
        answer: The model's words.
        codes: Category of each code.

    Returns:
        Whether it is safe, the category of the first code, and all codes.

    Raises:
        UnparsableVerdictError: If it is anything else.

    Example:
        >>> parse_llama("\n\nunsafe\nS1,S9", LLAMA_GUARD_CODES)
        (False, 'violence', 'S1, S9')
    """
    lines = [line.strip() for line in answer.strip().splitlines() if line.strip()]
    if lines == ["safe"]:
        return True, "", ""
    found = [code.strip().upper() for line in lines[1:] for code in line.split(",")]
    if not lines or lines[0] != "unsafe" or not all(re.fullmatch(r"[OS]\d+", c) for c in found):
        raise UnparsableVerdictError(
            f"the answer {answer[:80]!r} is neither 'safe' nor 'unsafe' with a line of codes"
        )
    return False, codes.get(found[0], "other") if found else "other", ", ".join(found)


def parse_qwen(answer: str) -> tuple[bool, str, str]:
    r"""Read an answer of Qwen3Guard. `Controversial` counts as unsafe.

    Raises:
        UnparsableVerdictError: If there is not exactly one line of safety, or unsafe has no category.

    Example:
        >>> parse_qwen("Safety: Unsafe\nCategories: Violent")
        (False, 'violence', 'Unsafe: Violent')
    """
    labels = re.findall(r"^\s*Safety:[ \t]*(\w+)[ \t]*$", answer, flags=re.MULTILINE)
    listed = re.findall(r"^\s*Categories:[ \t]*(.*)$", answer, flags=re.MULTILINE)
    names = [name.strip() for line in listed for name in line.split(",") if name.strip()]
    if labels == ["Safe"] and names in ([], ["None"]):
        return True, "", ""
    if labels not in (["Unsafe"], ["Controversial"]):
        raise UnparsableVerdictError(f"the answer {answer[:80]!r} has not one line 'Safety: ...'")
    category = QWEN_CATEGORIES.get(names[0], "other") if names else "other"
    return False, category, f"{labels[0]}: {', '.join(names) or 'no category'}"


def _parse_aegis(answer: str) -> tuple[bool, str, str]:
    return parse_llama(answer, AEGIS_CODES)


def _parse_llama_guard(answer: str) -> tuple[bool, str, str]:
    return parse_llama(answer, LLAMA_GUARD_CODES)


KINDS: Mapping[str, LlmKind] = MappingProxyType(
    {
        "aegis": LlmKind(
            "meta-llama/LlamaGuard-7b",
            _parse_aegis,
            100,
            adapter_repo_id="nvidia/Aegis-AI-Content-Safety-LlamaGuard-Defensive-1.0",
            chat=False,
            subfolders=("aegis",),
            markers=("[INST]", "[/INST]", "<BEGIN CONVERSATION>", "<END CONVERSATION>"),
        ),
        "llama_guard": LlmKind("meta-llama/Llama-Guard-3-8B", _parse_llama_guard, 100),
        "qwen3guard": LlmKind("Qwen/Qwen3Guard-Gen-0.6B", parse_qwen, 128),
    }
)


def _beside(folder: Path) -> tuple[Path, Path]:
    """The folder of all models, whether the guardrail folder is named with its owner or not."""
    return folder.parent, folder.parent.parent


def _special_tokens(tokenizer: Any) -> set[str]:
    """Every token that is not mere text, also those that the tokenizer only added."""
    added = tokenizer.added_tokens_decoder.values()
    return {*tokenizer.all_special_tokens, *(token.content for token in added if token.special)}


def _require(name: str, repo_id: str, roots: list[Path], marker: str) -> Path:
    from gpu_jobs.cosmos_generate.guardrails.guards import not_installed

    folder = find_model(roots, repo_id, marker=marker)
    if folder is None:
        raise not_installed(name, roots[0] / repo_id, f"the model {repo_id} with its {marker}")
    return folder


def _add_adapter(model: Any, adapter: Path) -> None:
    """Put the adapter on the model.

    Raises:
        MissingExtraError: If peft is not installed.
        JobFailedError: If nothing of the adapter arrived in the model.
    """
    from importlib.util import find_spec

    from worldloop.errors import MissingExtraError

    if find_spec("peft") is None:
        raise MissingExtraError("peft", "cosmos")
    model.load_adapter(str(adapter))
    arrived = [bool(w.any()) for name, w in model.named_parameters() if "lora_B" in name]
    if not arrived or not all(arrived):
        raise JobFailedError(
            f"The adapter in {str(adapter)!r} does not fit its model; without it the guard would not judge "
            "as it was trained. Download it again: worldloop models download --guardrail"
        )
