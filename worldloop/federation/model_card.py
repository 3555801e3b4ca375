"""What a published checkpoint consists of: weights as diffusers loads them, their settings, evaluation, card.

A card is a README with the front matter of the hub's model cards. It has numbers, names and hashes
alone: no caption, no path, no picture, so that it can leave the coordinator with the weights.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from safetensors.numpy import save

from worldloop.cosmos.companions import LICENCE_NVIDIA
from worldloop.cosmos.models import Model, model
from worldloop.errors import MalformedRecordError
from worldloop.federation.adapters import DOWN, Arrays, adapter_bytes
from worldloop.federation.evaluation import (
    AFTER,
    BEFORE,
    CHANGE,
    FOOTAGE,
    Evaluation,
    Score,
    overall_change,
    places,
)
from worldloop.federation.gates import Verdict
from worldloop.federation.rounds import RoundPlan, Training
from worldloop.seeds import canonical_json

# diffusers.loaders.lora_base: LORA_WEIGHT_NAME_SAFE and LORA_ADAPTER_METADATA_KEY, diffusers 0.42.1
LORA_WEIGHTS, FULL_WEIGHTS = "pytorch_lora_weights.safetensors", "delta.safetensors"
LORA_CONFIG = "adapter_config.json"
_METADATA_KEY = "lora_adapter_metadata"
_MOST_PLACES = 40


@dataclass(frozen=True)
class Licence:
    """A licence as the hub's cards name it.

    Attributes:
        key: `license` of the front matter.
        name: `license_name`, where the key is `other`.
        link: Where its text is.
        notice: What has to stand beside works made from the base.
    """

    key: str
    link: str
    name: str = ""
    notice: str = ""


LICENCES: Mapping[str, Licence] = MappingProxyType(
    {
        # front matter of nvidia/Cosmos-1.0-*, and what sections 3.1 and 3.2 of the agreement ask for
        LICENCE_NVIDIA: Licence(
            "other",
            "https://www.nvidia.com/en-us/agreements/enterprise-software/nvidia-open-model-license",
            "nvidia-open-model-license",
            "Licensed by NVIDIA Corporation under the NVIDIA Open Model License. Built on NVIDIA Cosmos.",
        ),
        # https://openmdw.ai names this file as its text
        "OpenMDW-1.1": Licence(
            "other",
            "https://raw.githubusercontent.com/OpenMDW/OpenMDW/refs/heads/main/1.1/LICENSE.OpenMDW-1.1",
            "openmdw-1.1",
        ),
        "Apache-2.0": Licence("apache-2.0", "https://www.apache.org/licenses/LICENSE-2.0"),
    }
)


def checkpoint_files(
    plan: RoundPlan, adapter: Arrays, evaluation: Evaluation, verdicts: Sequence[Verdict]
) -> dict[str, bytes]:
    """The files of a checkpoint by name; equal arguments give equal bytes.

    Args:
        plan: Of the round.
        adapter: The candidate: factors by diffusers' layer names; in mode `full` the difference of all weights.
        evaluation: Of the candidate.
        verdicts: Of its gates.

    Raises:
        MalformedRecordError: If there are no tensors.
    """
    files = {
        "README.md": model_card(plan, evaluation, verdicts).encode(),
        "evaluation.json": canonical_json(
            {**evaluation.to_record(), "verdicts": [vars(verdict) for verdict in verdicts]}
        ),
    }
    if plan.training.mode == "full":
        return {**files, FULL_WEIGHTS: adapter_bytes(adapter)}
    settings = lora_settings(plan.training, adapter)
    config = {
        **settings,
        "peft_type": "LORA",
        "base_model_name_or_path": model(plan.base.model).repo_id or plan.base.model,
        "revision": plan.base.revision,
        "inference_mode": True,
        "lora_dropout": 0.0,
        "task_type": None,
    }
    return {
        **files,
        LORA_WEIGHTS: diffusers_lora(adapter, settings),
        LORA_CONFIG: (json.dumps(config, indent=2, sort_keys=True) + "\n").encode(),
    }


def lora_settings(training: Training, adapter: Arrays) -> dict[str, Any]:
    """Settings of an adapter in PEFT's words: `r`, `lora_alpha`, `target_modules`, `bias`.

    Raises:
        MalformedRecordError: If there are no factors.
    """
    layers = sorted(name.removesuffix(DOWN) for name in adapter if name.endswith(DOWN))
    if not layers:
        raise MalformedRecordError(
            "adapter to publish", sorted(adapter)[:3], f"tensors <layer>{DOWN}", "Aggregate again."
        )
    alpha = float(training.alpha)
    return {
        "r": int(adapter[layers[0] + DOWN].shape[0]),
        "lora_alpha": int(alpha) if alpha.is_integer() else alpha,
        "target_modules": layers,
        "bias": "none",
    }


def diffusers_lora(adapter: Arrays, settings: Mapping[str, Any]) -> bytes:
    """An adapter as diffusers saves and loads it.

    Args:
        adapter: Factors by diffusers' layer names.
        settings: Of `lora_settings`; they stand in the header, where diffusers looks for alpha.
    """
    said = {f"transformer.{name}": value for name, value in settings.items()}
    tensors = {
        f"transformer.{name}": np.ascontiguousarray(adapter[name]) for name in sorted(adapter)
    }
    metadata = {"format": "pt", _METADATA_KEY: json.dumps(said, indent=2, sort_keys=True)}
    return _in_order(save(tensors, metadata=metadata))


def _in_order(content: bytes) -> bytes:
    """A safetensors file with its header's keys in order; safetensors writes metadata in any order."""
    size = int.from_bytes(content[:8], "little")
    header = canonical_json(json.loads(content[8 : 8 + size]))
    header += b" " * (-len(header) % 8)  # tensors begin at a multiple of 8
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def model_card(plan: RoundPlan, evaluation: Evaluation, verdicts: Sequence[Verdict]) -> str:
    """The README of a checkpoint.

    Args:
        plan: Of the round.
        evaluation: Of the candidate.
        verdicts: Of its gates.
    """
    base = model(plan.base.model)
    sections = [
        _front_matter(base, plan),
        f"# {base.name}, round {plan.round}\n",
        _summary(base, plan, evaluation),
        _use(base, plan),
        _data(plan, evaluation),
        _training(plan),
        _evaluation(evaluation),
        _gates(verdicts),
        _limitations(plan, evaluation),
        _licence(base),
    ]
    return "\n".join(sections)


def _front_matter(base: Model, plan: RoundPlan) -> str:
    licence = LICENCES.get(base.licence)
    entries: list[tuple[str, Any]] = []
    if base.repo_id:
        relation = "adapter" if plan.training.mode == "lora" else "finetune"
        entries += [("base_model", base.repo_id), ("base_model_relation", relation)]
    entries.append(("license", licence.key if licence else "other"))
    if licence is None or licence.key == "other":
        name = licence.name if licence else base.licence.casefold().replace(" ", "-")
        entries.append(("license_name", name))
    if licence and licence.key == "other":
        entries.append(("license_link", licence.link))
    entries += [("library_name", "diffusers"), ("pipeline_tag", _PIPELINES[base.task])]
    tags = ["cosmos", "world-model", "worldloop", "federated", "synthetic-data", plan.round]
    entries.append(("tags", [*tags, "lora"] if plan.training.mode == "lora" else tags))
    # JSON is YAML: quoted, nothing of a name can be read as something else
    lines = [f"{name}: {json.dumps(value)}" for name, value in entries]
    return "\n".join(["---", *lines, "---", ""])


_PIPELINES: Mapping[str, str] = MappingProxyType(
    {
        "text2image": "text-to-image",
        "text2world": "text-to-video",
        "image2world": "image-to-video",
        "video2world": "image-to-video",
        "control2world": "video-to-video",
        "action": "robotics",
        "sound": "text-to-audio",
    }
)


def _summary(base: Model, plan: RoundPlan, evaluation: Evaluation) -> str:
    kind = (
        f"A LoRA adapter of rank {plan.training.rank}"
        if plan.training.mode == "lora"
        else "The difference of all weights"
    )
    start = f"the adapter of round {plan.base.adapter}" if plan.base.adapter else "the base alone"
    return (
        f"{kind} for `{base.name}` (revision `{plan.base.revision}`), trained in a federated round by "
        f"{len(plan.sites)} sites ({', '.join(plan.sites)}) whose footage stayed with them, from {start}. "
        f"{evaluation.lineage_depth} rounds of generated footage lie beneath.\n"
    )


def _use(base: Model, plan: RoundPlan) -> str:
    if plan.training.mode == "full":
        return (
            "## Use\n\n"
            f"`{FULL_WEIGHTS}` holds what is added to each weight, by diffusers' names, float32.\n"
        )
    return (
        f"## Use\n\n```python\n# pipeline: diffusers' own of {base.name}\n"
        "pipeline.transformer.load_lora_adapter(\n"
        f'    folder, weight_name="{LORA_WEIGHTS}", prefix="transformer"\n'
        ")\n```\n\nor as an adapter of a wave's plan in worldloop.\n"
    )


def _data(plan: RoundPlan, evaluation: Evaluation) -> str:
    rows = [f"| {wave} | `{root}` |" for wave, root in zip(plan.waves, plan.releases, strict=True)]
    cities = ", ".join(plan.trial.held_out_cities) or "none"
    return "\n".join(
        [
            "## Footage",
            "",
            "Synthetic clips; each site trained on its own part of these releases.",
            "",
            "| wave | root hash of the release |",
            "| --- | --- |",
            *rows,
            "",
            f"Cities that nobody trained on: {cities}. Plan `{evaluation.plan_id}`, adapter "
            f"`{evaluation.adapter_sha256}`.",
            "",
        ]
    )


def _training(plan: RoundPlan) -> str:
    training, aggregation = plan.training, plan.aggregation
    shape = training.shape
    facts: list[tuple[str, object]] = [
        ("mode", training.mode),
        (
            "window",
            f"{shape.num_frames} frames of {shape.width_px}x{shape.height_px} px at {shape.rate_fps} fps",
        ),
        ("steps a site", training.num_steps),
        ("batch", training.batch_size),
        ("learning rate", training.learning_rate),
        ("precision", training.precision),
        ("strategy", aggregation.strategy),
        (
            "delta codec",
            aggregation.codec + (", error feedback" if aggregation.error_feedback else ""),
        ),
        ("secure aggregation", "yes" if aggregation.secure else "no"),
        ("noise multiplier", aggregation.noise_multiplier),
        ("seed", plan.seed),
    ]
    if training.mode == "lora":
        facts[1:1] = [
            ("rank, alpha", f"{training.rank}, {training.alpha:g}"),
            ("targets", ", ".join(training.targets)),
        ]
    rows = [f"| {name} | {value} |" for name, value in facts]
    return "\n".join(["## Training", "", "| setting | value |", "| --- | --- |", *rows, ""])


def _evaluation(evaluation: Evaluation) -> str:
    lines = ["## Evaluation", ""]
    if evaluation.clips and evaluation.weights:
        change = overall_change(evaluation)
        lines += [
            f"Held-out denoising loss, same clips and noise before and after: {change.mean:+.2%} "
            f"({change.low:+.2%} to {change.high:+.2%}, 90 % interval, {len(evaluation.clips)} clips).",
            "",
        ]
    measures = sorted({(score.measure, score.judge) for score in evaluation.scores})
    if measures:
        lines += ["| measure | judge | before | after | change (90 % interval) | footage |"]
        lines += ["|" + " --- |" * 6]
        lines += [_measure_row(evaluation, *one) for one in measures]
        lines += [""]
    table = sorted(places(evaluation), key=lambda row: (row.change, row.place))
    if table:
        lines += ["| place | clips | loss before | loss after | change |", "|" + " --- |" * 5]
        lines += [
            f"| {row.place} | {row.num_clips} | {row.before:.4f} | {row.after:.4f} | {row.change:+.2%} |"
            for row in table[:_MOST_PLACES]
        ]
        left = len(table) - _MOST_PLACES
        lines += [f"\n{left} more places in `evaluation.json`.", ""] if left > 0 else [""]
    return "\n".join(lines)


def _measure_row(evaluation: Evaluation, measure: str, judge: str) -> str:
    def shown(score: Score | None) -> str:
        return "" if score is None else f"{score.value:.4g}"

    change = evaluation.score(CHANGE, measure)
    by = f"{change.value:+.4g} ({change.low:+.4g} to {change.high:+.4g})" if change else ""
    values = [shown(evaluation.score(group, measure)) for group in (BEFORE, AFTER)]
    footage = shown(evaluation.score(FOOTAGE, measure))
    return f"| {measure} | {judge} | {values[0]} | {values[1]} | {by} | {footage} |"


def _gates(verdicts: Sequence[Verdict]) -> str:
    rows = [
        f"| {verdict.name} | {'passed' if verdict.passed else 'failed'} | {_escaped(verdict.why)} |"
        for verdict in verdicts
    ]
    return "\n".join(["## Gates", "", "| gate | verdict | why |", "| --- | --- | --- |", *rows, ""])


def _limitations(plan: RoundPlan, evaluation: Evaluation) -> str:
    lines = [
        "## Limitations",
        "",
        "- Trained on synthetic footage: what it adds to the base is the look and the things of that footage.",
        "- The starter embedder among the judges was trained on footage of the same renderer; its figures "
        "rank checkpoints and say nothing of photographs.",
        "- Samples are few; intervals are of resampled clips and do not hold what other prompts would show.",
    ]
    if not plan.trial.anchor_dir:
        lines.append("- It was not measured on real footage.")
    if evaluation.missing_sites:
        lines.append(f"- No scores came from {', '.join(evaluation.missing_sites)}.")
    if not plan.aggregation.noise_multiplier:
        lines.append("- No differential privacy: the adapter may tell something of single clips.")
    return "\n".join([*lines, ""])


def _licence(base: Model) -> str:
    licence = LICENCES.get(base.licence)
    text = f"The base is under the {base.licence}"
    text += f" ({licence.link}); what is made from it is bound by its terms." if licence else "."
    notice = f"\n\n{licence.notice}" if licence and licence.notice else ""
    return f"## Licence\n\n{text}{notice}\n"


def _escaped(words: str) -> str:
    return words.replace("|", "\\|").replace("\n", " ")
