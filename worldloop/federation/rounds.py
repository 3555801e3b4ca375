"""Round plans: what every site trains, how its deltas become one adapter, when the round ends.

A plan is written once and never changed; its hash stands in every delta, so a delta of another round,
another base or an altered plan is refused.
"""

import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Self

from worldloop.cosmos.families import ClipShape
from worldloop.errors import MalformedRecordError
from worldloop.federation.options import PRODUCT, least_sites, option_problems
from worldloop.seeds import content_id

PLAN_VERSION = 1
ROUND_KEY = re.compile(r"r\d{4,}")
Mode = Literal["lora", "full"]
Codec = Literal["float32", "int8", "int4"]
MODES: tuple[Mode, ...] = ("lora", "full")
CODECS: tuple[Codec, ...] = ("float32", "int8", "int4")
MAX_DEADLINE_S = 1e9  # 31 years; a date cannot be much later
PRECISIONS = ("bf16", "fp32", "fp8")
STRATEGIES = ("fedavg", "fedadam", "fedprox", "diloco", "trimmed_mean", "median")
ROBUST_STRATEGIES = ("trimmed_mean", "median")
# diffusers, examples/cosmos/train_cosmos_predict25_lora.py, merged in pull request 13664
LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")
# attention and MLP of Cosmos 3's generator, which `LORA_TARGETS` stand for there; its published adapters have
# the first four: cosmos_framework/configs/base/experiment/sft/models/super_model_config.py,
# lora_target_modules, NVIDIA/cosmos-framework, commit 5eee9ed
COSMOS3_ATTENTION = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
COSMOS3_MLP = ("mlp_moe_gen.gate_proj", "mlp_moe_gen.up_proj", "mlp_moe_gen.down_proj")


@dataclass(frozen=True)
class Base:
    """The weights that a round starts from, the same at every site.

    Attributes:
        model: Name in `worldloop.cosmos.models.MODELS`.
        revision: Pinned revision of its weights.
        checkpoint: Folder of post-trained weights among the checkpoints; empty: the model's own.
        adapter: Round whose promoted adapter is gone on from; empty: a new adapter.
        adapter_sha256: `adapters.adapter_sha256` of that adapter; empty without one.
        lineage_depth: How many rounds of generated footage lie beneath: 0 for footage of sketches and
            published weights alone.
    """

    model: str
    revision: str
    checkpoint: str = ""
    adapter: str = ""
    adapter_sha256: str = ""
    lineage_depth: int = 0


@dataclass(frozen=True)
class Training:
    """What a site does with its footage.

    Attributes:
        shape: Of the windows that are trained on.
        mode: `lora`, or `full` for all weights.
        rank: Of the adapter.
        alpha: Its scale is alpha / rank.
        targets: Ends of the names of the adapted linear layers; the default is attention and MLP of any model.
        first_blocks: Only this many leading blocks are adapted; 0: all.
        num_steps: Optimizer steps of a site.
        batch_size: Windows of a step.
        learning_rate: Peak of AdamW.
        warmup_steps: Steps of linear warm-up.
        weight_decay: Of AdamW.
        prox_mu: Pull towards the start, FedProx (arXiv 1812.06127); 0: none.
        ema_decay: Of the averaged weights, which the delta is made from; 0: the last weights.
        caption_dropout: Share of windows without caption, so that guidance goes on working.
        conditioning_frames: First frames that a window may be given, one count drawn each; (0,): none.
        max_clips: Clips of a site that are trained on, evenly spaced; 0: all.
        precision: `bf16`, `fp32`, or `fp8`: bf16 whose large linear layers multiply in FP8 (Transformer Engine, on a GPU).
        checkpoint_blocks: Whether activations are computed again in the backward pass.
        sequence_interval: Every so-manieth frame of a video makes a window.
        start_frame_interval: Frames from the start of one window to the next; 0: windows lie side by side.
        cosine_steps: Steps, warm-up included, over which the learning rate falls to 0 along a cosine; 0: it stays.
        ema_rate: Of weights averaged with a power of the steps so far, as Cosmos 3 is trained, in the place of
            `ema_decay`; 0: none.
        compile_blocks: Whether blocks are compiled by torch.compile, once a shape; on a GPU only.
        keep_optimizer: Whether a site's optimizer goes on where it stood after the delta that is part of what the
            round starts from; it warms up only where it begins anew. Of adapters alone.
    """

    shape: ClipShape
    mode: Mode = "lora"
    rank: int = 8
    alpha: float = 8.0
    targets: tuple[str, ...] = LORA_TARGETS
    first_blocks: int = 0
    num_steps: int = 100
    batch_size: int = 1
    learning_rate: float = 1e-4
    warmup_steps: int = 10
    weight_decay: float = 0.0
    prox_mu: float = 0.0
    ema_decay: float = 0.0
    caption_dropout: float = 0.1
    conditioning_frames: tuple[int, ...] = (0,)
    max_clips: int = 0
    precision: str = "bf16"
    checkpoint_blocks: bool = False
    sequence_interval: int = 1
    start_frame_interval: int = 0
    cosine_steps: int = 0
    ema_rate: float = 0.0
    compile_blocks: bool = False
    keep_optimizer: bool = False

    @property
    def averages(self) -> bool:
        """Whether weights are averaged over the steps."""
        return bool(self.ema_decay or self.ema_rate)


@dataclass(frozen=True)
class Aggregation:
    """How deltas travel and become one.

    Attributes:
        strategy: One of `STRATEGIES`.
        options: Of the strategy, e.g. `{"learning_rate": 0.7, "momentum": 0.9}`; what is left out takes its default.
        codec: How a delta is written.
        error_feedback: Whether what the codec lost is added to the site's next delta.
        secure: Whether deltas are masked, so that the coordinator sees their sum alone. Excludes robust strategies.
        clip_norm: A site's delta is scaled down to this length; 0: no limit. Needed for privacy.
        noise_multiplier: Gaussian noise of a site, times `clip_norm`; 0: none.
        target_delta: Of the (epsilon, delta) that is reported.
        max_norm: A longer delta is refused as odd; 0: no limit.
    """

    strategy: str = "fedavg"
    options: Mapping[str, float] = field(default_factory=dict)
    codec: Codec = "int8"
    error_feedback: bool = True
    secure: bool = False
    clip_norm: float = 0.0
    noise_multiplier: float = 0.0
    target_delta: float = 1e-5
    max_norm: float = 0.0


@dataclass(frozen=True)
class Terms:
    """When a round goes on and when it ends.

    Attributes:
        quorum: Deltas without which nothing is aggregated.
        deadline_s: Seconds after the plan at which what is there is aggregated; with all deltas it does not wait.
        scores_deadline_s: Seconds after the adapter at which what sites said of it is judged.
        staleness_power: A delta of a plan `n` rounds old counts `(1 + n) ** -staleness_power`; what is
            later than `max_staleness` is refused.
        max_staleness: Rounds that a delta may be late.
    """

    quorum: int = 2
    deadline_s: float = 3600.0
    scores_deadline_s: float = 3600.0
    staleness_power: float = 0.5
    max_staleness: int = 0


@dataclass(frozen=True)
class Trial:
    """How a candidate is tried before it is promoted.

    Attributes:
        held_out_cities: Their clips are never trained on; the loss is measured on them.
        num_clips: Held-out clips of a site that are measured, evenly spaced; 0: all.
        noise_levels: Noise levels of each clip at which the loss is measured, evenly spaced quantiles.
        prompts: Neutral prompts for the samples before and after; no caption of any clip.
        sample_steps: Denoising steps of a sample.
        guidance: Guidance of a sample; negative takes the model's.
        seed: Of noise and samples, the same before and after.
        limits: Gates by name, see `worldloop.federation.gates`; what is left out takes its default.
        anchor_dir: Folder of real footage (`videos/`, `metas/`) that must not become worse; empty: none.
    """

    held_out_cities: tuple[str, ...] = ()
    num_clips: int = 0
    noise_levels: int = 4
    prompts: tuple[str, ...] = ()
    sample_steps: int = 35
    guidance: float = -1.0
    seed: int = 1
    limits: Mapping[str, float] = field(default_factory=dict)
    anchor_dir: str = ""


@dataclass(frozen=True)
class RoundPlan:
    """One round of federated post-training.

    Attributes:
        round: Partition key, `r0001`.
        sites: Members that are asked, in order.
        waves: Released waves whose clips are trained on, in order; each site takes its own.
        releases: Root hash of each wave's release, in that order.
        base: What is started from.
        training: What a site does.
        aggregation: How deltas become an adapter.
        terms: Quorum and deadlines.
        trial: How the candidate is tried.
        seed: Of the adapter's start, data order and noise.
        opened_at: ISO time in UTC; deadlines count from it.
        reason: Why the round was opened, in words.
    """

    round: str
    sites: tuple[str, ...]
    waves: tuple[str, ...]
    releases: tuple[str, ...]
    base: Base
    training: Training
    aggregation: Aggregation
    terms: Terms
    trial: Trial
    seed: int
    opened_at: str
    reason: str = ""
    plan_version: int = PLAN_VERSION

    def __post_init__(self) -> None:
        """Refuse what cannot be carried out.

        Raises:
            MalformedRecordError: Naming the field.
        """
        for wrong in _problems(self):
            raise MalformedRecordError(f"round plan, {wrong[0]}", *wrong[1:])

    @property
    def plan_id(self) -> str:
        """Hash of the record; it stands in every delta."""
        return content_id(self.to_record())

    def to_record(self) -> dict[str, Any]:
        """The JSON record."""
        record = asdict(self)
        for part, name in _LISTS:
            holder = record[part] if part else record
            holder[name] = list(holder[name])
        for name in _LATER:  # a plan from before them keeps its hash
            if not record["training"][name]:
                del record["training"][name]
        record["aggregation"]["options"] = dict(self.aggregation.options)
        record["trial"]["limits"] = dict(self.trial.limits)
        return record

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read a record of any released version, in today's fields.

        Raises:
            MalformedRecordError: If the version is not one that we read, or a field is missing or odd.
        """
        version = record.get("plan_version")
        if not isinstance(version, int) or not 1 <= version <= PLAN_VERSION:
            raise MalformedRecordError(
                "round plan",
                version,
                f"plan_version 1 to {PLAN_VERSION}",
                "Read it with the release of worldloop that wrote it.",
            )
        try:
            parts = {name: kind(**_tupled(name, record[name])) for name, kind in _PARTS.items()}
            return cls(**{**_tupled("", record), **parts})
        except (KeyError, TypeError) as error:
            raise MalformedRecordError(
                "round plan",
                str(error),
                "the fields of docs/formats.md#round-plan",
                "Plan it again.",
            ) from error


_PARTS: Mapping[str, Any] = {
    "base": Base,
    "training": Training,
    "aggregation": Aggregation,
    "terms": Terms,
    "trial": Trial,
}
_LISTS = (
    ("", "sites"),
    ("", "waves"),
    ("", "releases"),
    ("training", "targets"),
    ("training", "conditioning_frames"),
    ("trial", "held_out_cities"),
    ("trial", "prompts"),
)
_LATER = ("cosine_steps", "ema_rate", "compile_blocks", "keep_optimizer")
"""Fields of a training that stand in a record only where they change something."""


def next_round_key(known: Collection[str]) -> str:
    """The key after the newest.

    Example:
        >>> next_round_key(["r0001", "r0009"]), next_round_key([])
        ('r0010', 'r0001')
    """
    numbers = [int(key[1:]) for key in known if ROUND_KEY.fullmatch(key)]
    return f"r{max(numbers, default=0) + 1:04d}"


def rounds_apart(earlier: str, later: str) -> int:
    """How many rounds lie between two keys.

    Example:
        >>> rounds_apart("r0001", "r0003")
        2
    """
    return int(later[1:]) - int(earlier[1:])


def learned_waves(plans: Mapping[str, RoundPlan], base: str) -> set[str]:
    """Waves that an adapter was trained on, in its own round and in all that it goes on from.

    What only other rounds were trained on is in no weight of it: footage of rounds that failed, were
    refused, taken back, or are tried still, is new to whoever goes on from it.

    Args:
        plans: By round.
        base: Round of the adapter; empty, or unknown: none.
    """
    learned = set[str]()
    while base in plans:
        learned |= set(plans[base].waves)
        base = plans[base].base.adapter
    return learned


def _tupled(part: str, record: Mapping[str, Any]) -> dict[str, Any]:
    fields = dict(record)
    for holder, name in _LISTS:
        if holder == part:
            fields[name] = tuple(fields[name])
    if part == "training":
        fields["shape"] = ClipShape(**fields["shape"])
    return fields


def _problems(plan: RoundPlan) -> list[tuple[str, object, str, str]]:
    """What is wrong with a plan: field, found, expected, what to do."""
    aggregation, terms, training = plan.aggregation, plan.terms, plan.training
    rules: list[tuple[bool, tuple[str, object, str, str]]] = [
        (
            not ROUND_KEY.fullmatch(plan.round),
            ("round", plan.round, "a key such as r0001", "Let the sensor name it."),
        ),
        (
            not plan.sites or len(set(plan.sites)) < len(plan.sites),
            ("sites", plan.sites, "sites, each once", "Name sites of sites.toml."),
        ),
        (
            len(plan.waves) != len(plan.releases),
            (
                "releases",
                len(plan.releases),
                f"{len(plan.waves)} root hashes, one a wave",
                "Plan it again.",
            ),
        ),
        (
            aggregation.strategy not in STRATEGIES,
            ("strategy", aggregation.strategy, f"one of {STRATEGIES}", "Choose one of them."),
        ),
        (
            aggregation.codec not in CODECS,
            ("codec", aggregation.codec, f"one of {CODECS}", "Choose one of them."),
        ),
        (
            aggregation.secure and aggregation.strategy in ROBUST_STRATEGIES,
            (
                "secure",
                f"secure aggregation with {aggregation.strategy}",
                "one of the two: a robust strategy looks at single deltas, which secure aggregation hides",
                "Turn secure off, or choose fedavg, fedprox, fedadam or diloco.",
            ),
        ),
        (
            aggregation.secure and len(plan.sites) < 3,
            (
                "secure",
                f"{len(plan.sites)} sites",
                "at least 3 sites, or a sum tells each the other's delta",
                "Turn secure off.",
            ),
        ),
        (
            aggregation.noise_multiplier > 0 and aggregation.clip_norm <= 0,
            (
                "noise_multiplier",
                aggregation.noise_multiplier,
                "a clip_norm above 0 with it",
                "Set clip_norm.",
            ),
        ),
        (
            not 1 <= terms.quorum <= len(plan.sites),
            ("quorum", terms.quorum, f"1 to {len(plan.sites)}, the number of sites", "Correct it."),
        ),
        (
            training.mode not in MODES,
            ("mode", training.mode, f"one of {MODES}", "Choose one of them."),
        ),
        (
            training.keep_optimizer and training.mode != "lora",
            (
                "keep_optimizer",
                f"true with mode {training.mode!r}",
                "mode 'lora': of all weights the state is twice as long as the model",
                "Turn it off, or train an adapter.",
            ),
        ),
        (
            training.precision not in PRECISIONS,
            ("precision", training.precision, f"one of {PRECISIONS}", "Choose one of them."),
        ),
        (
            training.num_steps < 1 or training.batch_size < 1 or training.rank < 1,
            (
                "training",
                (training.num_steps, training.batch_size, training.rank),
                "num_steps, batch_size and rank of at least 1",
                "Correct it.",
            ),
        ),
    ]
    wrong = [problem for is_wrong, problem in rules if is_wrong]
    return wrong or [*_number_problems(plan)] or _strategy_problems(plan)


_ABOVE_0, _BELOW_1 = math.ulp(0.0), math.nextafter(1.0, 0.0)
_RANGES: Mapping[str, tuple[float, float]] = {
    "deadline_s": (_ABOVE_0, MAX_DEADLINE_S),
    "scores_deadline_s": (_ABOVE_0, MAX_DEADLINE_S),
    "target_delta": (_ABOVE_0, _BELOW_1),
    "learning_rate": (_ABOVE_0, math.inf),
    "ema_decay": (0.0, _BELOW_1),
    "caption_dropout": (0.0, 1.0),
    "noise_levels": (1, math.inf),
    "sequence_interval": (1, math.inf),
    **dict.fromkeys(
        ("first_blocks", "warmup_steps", "weight_decay", "prox_mu", "max_clips", "ema_rate")
        + ("start_frame_interval", "cosine_steps", "clip_norm", "noise_multiplier", "max_norm")
        + ("staleness_power", "max_staleness", "num_clips"),
        (0.0, math.inf),
    ),
}
"""Of numbers of a plan's parts, both ends included; the others may be any."""


def _number_problems(plan: RoundPlan) -> Iterator[tuple[str, object, str, str]]:
    """Numbers that would stop a round only once its sites have trained, or the sensor that carries it."""
    parts = (plan.training, plan.aggregation, plan.terms, plan.trial)
    numbers = [(each.name, getattr(part, each.name)) for part in parts for each in fields(part)]
    for name, value in numbers:
        low, high = _RANGES.get(name, (-math.inf, math.inf))
        if isinstance(value, int | float) and not (low <= value <= high and abs(value) < math.inf):
            yield name, value, _spoken(low, high), "Correct it."
    for name, value in plan.trial.limits.items():
        if not 0 <= value < math.inf:
            yield f"limit {name}", value, "a finite number of at least 0", "Correct it."
    if not plan.training.conditioning_frames:
        expected = "at least one count, (0,) for none"
        yield "conditioning_frames", plan.training.conditioning_frames, expected, "Correct it."


def _spoken(low: float, high: float) -> str:
    least = "above 0" if low == _ABOVE_0 else f"of at least {low:g}" if low > -math.inf else ""
    most = "below 1" if high == _BELOW_1 else f"of at most {high:g}" if high < math.inf else ""
    return " ".join(["a finite number", *filter(None, (least, "and" * bool(least and most), most))])


def _strategy_problems(plan: RoundPlan) -> list[tuple[str, object, str, str]]:
    """What a known strategy cannot do with its options and the quorum."""
    strategy, options = plan.aggregation.strategy, plan.aggregation.options
    problems = option_problems(strategy, options)
    if plan.aggregation.secure and options.get(PRODUCT):
        expected = "0 with secure, which hides the single deltas that it looks at"
        problems.append((f"option {PRODUCT}", options[PRODUCT], expected, "Leave it out."))
    needed = 1 if problems else least_sites(strategy, options)
    if plan.terms.quorum < needed:
        expected = f"at least {needed}, which {strategy} needs to drop {needed // 2} at each end"
        problems.append(("quorum", plan.terms.quorum, expected, "Raise it, or lower trim."))
    return problems
