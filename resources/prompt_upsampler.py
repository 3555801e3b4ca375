"""An optional language model that writes prompts anew: any OpenAI-compatible endpoint, or a local model.

Off by default. Answers that drop a fact, leave the word bounds or never come leave our prose as it
is, and are counted. Every answer is kept by scene, model and question, so that a partition which
is written again asks nothing and has the same bytes.
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg

from resources.credentials import resolved
from worldloop.atlas.atlas import Atlas
from worldloop.errors import MalformedRecordError, MissingExtraError
from worldloop.prompts.rewriting import INSTRUCTIONS, cleaned, faults, question
from worldloop.scenes.scene import Scene
from worldloop.seeds import content_id
from worldloop.whole_files import write_whole

BACKENDS = ("off", "endpoint", "transformers")
_RETRY_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_MAX_WAIT_S = 30.0


@dataclass
class Upsampled:
    """Prompts after the model was asked, and what became of its answers.

    Attributes:
        texts: One a scene: the model's if it may be used, else ours.
        num_accepted: Answers that are used.
        num_refused: Answers with a fault.
        num_failed: Scenes for which no answer came.
        num_cached: Answers that were kept from before.
        reasons: How often each kind of fault was found.
    """

    texts: list[str]
    num_accepted: int = 0
    num_refused: int = 0
    num_failed: int = 0
    num_cached: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


class PromptUpsampler(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Writes prompts anew with a language model, if one is configured.

    Attributes:
        backend: `off`, `endpoint` (an OpenAI-compatible `/chat/completions`) or `transformers`.
        model: Name that the endpoint knows, or id or folder of a transformers model.
        revision: Revision of a transformers model; part of the key of kept answers.
        url: Base address of the endpoint, e.g. `http://127.0.0.1:8000/v1`.
        api_key: Where its key is kept, e.g. `env:NAME`; empty for none.
        cache_folder: Where answers are kept; empty keeps none.
        batch_size: Questions on their way at a time, or prompts of one forward pass.
        timeout_s: How long one answer of an endpoint may take.
        num_retries: How often a question is asked again after a passing failure.
        wait_s: Wait before the first retry; doubled each time.
        max_new_tokens: Length of an answer.
        device: Where a transformers model runs.
    """

    backend: str = "off"
    model: str = ""
    revision: str = ""
    url: str = ""
    api_key: str = ""
    cache_folder: str = ""
    batch_size: int = 8
    timeout_s: float = 60.0
    num_retries: int = 3
    wait_s: float = 1.0
    max_new_tokens: int = 320
    device: str = "cpu"

    @property
    def is_on(self) -> bool:
        """Whether a model is asked at all."""
        return self.backend != "off"

    def rewrite(self, scenes: Sequence[Scene], prose: Sequence[str], atlas: Atlas) -> Upsampled:
        """Prompts written anew, or ours where that failed.

        Args:
            scenes: What the prompts are about.
            prose: Our prompts, one a scene.
            atlas: For the fact check.

        Raises:
            MalformedRecordError: If the backend is unknown, or no model or address is set.
            MissingExtraError: If the backend `transformers` is asked for and not installed.
            StoreError: If the key of the endpoint is not where the configuration says.
        """
        done = Upsampled(list(prose))
        if not self.is_on:
            return done
        self._check()
        questions = [
            question(text, scene, atlas) for text, scene in zip(prose, scenes, strict=True)
        ]
        paths = [self._path(scene, asked) for scene, asked in zip(scenes, questions, strict=True)]
        kept = [self._kept(path) for path in paths]
        done.num_cached = sum(answer is not None for answer in kept)
        open_ = [index for index, answer in enumerate(kept) if answer is None]
        answers = self._answers(
            [questions[index] for index in open_], [scenes[k].seed for k in open_]
        )
        for index, answer in zip(open_, answers, strict=True):
            kept[index] = answer
            if answer is not None and paths[index]:
                write_whole(Path(paths[index]), json.dumps({"answer": answer}).encode())
        for index, answer in enumerate(kept):
            self._judge(done, index, answer, scenes[index], atlas)
        return done

    def _check(self) -> None:
        if self.backend not in BACKENDS:
            raise MalformedRecordError(
                "backend of the prompt upsampler",
                self.backend,
                f"one of {', '.join(BACKENDS)}",
                "Choose one.",
            )
        if not self.model:
            raise MalformedRecordError(
                "model of the prompt upsampler", "", "its name", "Set `model`."
            )
        if self.backend == "endpoint" and not self.url.startswith(("http://", "https://")):
            raise MalformedRecordError(
                "url of the prompt upsampler", self.url, "an http or https address", "Set `url`."
            )

    def _judge(
        self, done: Upsampled, index: int, answer: str | None, scene: Scene, atlas: Atlas
    ) -> None:
        if answer is None:
            done.num_failed += 1
            return
        text = cleaned(answer)
        found = faults(text, scene, atlas)
        if found:
            done.num_refused += 1
            done.reasons.update({fault.partition(":")[0] for fault in found})
            return
        done.num_accepted += 1
        done.texts[index] = text

    # ------------------------------------------------------------------------- kept answers

    def _path(self, scene: Scene, asked: str) -> str:
        """File of an answer, or empty."""
        if not self.cache_folder:
            return ""
        which = content_id(
            {
                "backend": self.backend,
                "model": self.model,
                "revision": self.revision,
                "asked": INSTRUCTIONS,
            }
        )
        wording = hashlib.blake2b(asked.encode(), digest_size=8).hexdigest()
        return str(Path(self.cache_folder) / which / f"{scene.scene_id}-{wording}.json")

    def _kept(self, path: str) -> str | None:
        if not path or not Path(path).exists():
            return None
        try:
            return str(json.loads(Path(path).read_text())["answer"])
        except (ValueError, KeyError, TypeError):  # damaged: ask again
            return None

    # ------------------------------------------------------------------------- models

    def _answers(self, questions: Sequence[str], seeds: Sequence[int]) -> list[str | None]:
        if not questions:
            return []
        if self.backend == "transformers":
            return list(self._of_local_model(questions))
        import httpx2

        key = resolved({"key": self.api_key})["key"] if self.api_key else ""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        with (
            httpx2.Client(timeout=self.timeout_s, headers=headers) as client,
            ThreadPoolExecutor(max_workers=self.batch_size) as pool,
        ):
            return list(
                pool.map(lambda asked, seed: self._ask(client, asked, seed), questions, seeds)
            )

    def _ask(self, client: Any, asked: str, seed: int) -> str | None:
        """One answer of the endpoint; None after the last failure."""
        import httpx2

        body = {
            "model": self.model,
            "messages": [
                {"role": "system", "content": INSTRUCTIONS},
                {"role": "user", "content": asked},
            ],
            "temperature": 0.7,
            "seed": seed % 2**31,
            "max_tokens": self.max_new_tokens,
        }
        for attempt in range(self.num_retries + 1):
            wait_s = min(self.wait_s * 2**attempt, _MAX_WAIT_S)
            try:
                answer = client.post(f"{self.url.rstrip('/')}/chat/completions", json=body)
            except httpx2.TransportError:
                answer = None
            if answer is not None and answer.status_code < 300:
                return _content(answer)
            if answer is not None and answer.status_code not in _RETRY_STATUS:
                return None
            if attempt < self.num_retries:
                asked_s = answer.headers.get("Retry-After", "") if answer is not None else ""
                time.sleep(min(float(asked_s), _MAX_WAIT_S) if asked_s.isdigit() else wait_s)
        return None

    def _of_local_model(self, questions: Sequence[str]) -> Iterator[str]:
        """Answers of a transformers model, a batch at a time."""
        try:
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ImportError as error:
            raise MissingExtraError("transformers", "cosmos") from error
        revision = {"revision": self.revision} if self.revision else {}
        tokenizer = AutoTokenizer.from_pretrained(self.model, padding_side="left", **revision)
        network = (
            AutoModelForCausalLM.from_pretrained(self.model, **revision).to(self.device).eval()
        )
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        for first in range(0, len(questions), self.batch_size):
            asked = [_chat(tokenizer, text) for text in questions[first : first + self.batch_size]]
            inputs = tokenizer(asked, return_tensors="pt", padding=True, add_special_tokens=False)
            inputs = inputs.to(self.device)
            tokens = network.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=self.max_new_tokens,
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
            )
            start = inputs["input_ids"].shape[1]
            yield from tokenizer.batch_decode(tokens[:, start:], skip_special_tokens=True)


def _content(answer: Any) -> str | None:
    """The text of a chat completion, or None if it is none."""
    try:
        content = answer.json()["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError):
        return None
    return content if isinstance(content, str) else None


def _chat(tokenizer: Any, asked: str) -> str:
    """A question as the model's template has it, or plain text for one without."""
    if not tokenizer.chat_template:
        return f"{INSTRUCTIONS}\n\n{asked}\n\nRewritten description:\n"
    messages = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": asked}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
