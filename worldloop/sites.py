"""Sites of the federation: which cities are at home where, and what each site may use.

Read from `sites.toml`; a file that does not follow the format is refused with what to change.
"""

import math
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar
from urllib.parse import urlparse

from worldloop.atlas.atlas import load_atlas
from worldloop.cosmos.families import ClipShape
from worldloop.cosmos.models import model
from worldloop.cosmos.plans import WorldModelPlan, plan_world_model
from worldloop.cosmos.tiers import tier_shape
from worldloop.errors import MalformedRecordError, UnknownKeyError, WorldloopError
from worldloop.federation.rounds import (
    Aggregation,
    Base,
    Codec,
    Mode,
    RoundPlan,
    Terms,
    Training,
    Trial,
)
from worldloop.waves import check_wishes, needs_sketches

EVERY_CITY = "*"
PROMOTED = "promoted"  # adapter of generation
_LEAST_PAIRS = 5  # with fewer, all of them fall by chance in more than 5 % of all cases
Cloud = Literal["local", "aws", "gcp", "azure"]
CLOUDS: Mapping[str, Cloud] = MappingProxyType(
    {
        "": "local",
        "file": "local",
        "s3": "aws",
        "gs": "gcp",
        "az": "azure",
        "abfs": "azure",
        "abfss": "azure",
    }
)
_SITE_NUMBERS = ("max_disk_gb", "usd_per_gpu_hour", "max_lag_s")
_PLANS = ("training", "aggregation", "terms", "trial", "regeneration")  # tables in `training`
_Section = TypeVar(
    "_Section", "Budgets", "Generation", "Promotion", "Iceberg", "Registration", "Prices"
)
_Part = TypeVar("_Part", "Retraining", "Regeneration", Training, Aggregation, Terms, Trial)


@dataclass(frozen=True)
class Budgets:
    """What a site may use on one day, UTC. Infinity is no limit.

    Attributes:
        cpu_s: CPU seconds.
        gpu_s: GPU seconds.
        bytes: Bytes written to the store.
        requests: Requests to the store and to paid services.
        usd: Money.
    """

    cpu_s: float = math.inf
    gpu_s: float = 0.0
    bytes: float = math.inf
    requests: float = math.inf
    usd: float = 0.0

    def limits(self) -> dict[str, float]:
        """Limit by kind, as the ledger takes them."""
        return {f.name: float(getattr(self, f.name)) for f in fields(self)}


@dataclass(frozen=True)
class Generation:
    """What `continuous_generation` plans when nobody asks for anything else.

    Attributes:
        num_cities: Cities of a wave.
        clips_per_place: Clips of each place.
        mix: Shares of content categories; those that are not named get none. Empty: no shares.
        weights: How often places are picked, 1 for those that are not named: `tokyo/zoo`, `tokyo/*` or
            `*/zoo`; 0 leaves them out.
        targets: Clips of given places, in the place of `num_cities` and `clips_per_place`.
        weigh_by_acceptance: Whether places that lost clips in curation are picked more often.
        num_frames: Frames of a clip.
        width_px: Width of a clip.
        height_px: Height of a clip.
        rate_fps: Frames per second.
        num_samples: Samples a pixel.
        min_hours_between_waves: The next wave opens no sooner than this after the last.
        world_model: Name of a model that makes clips of the same scenes; empty: sketches only.
        tier: Tier of its clips.
        profile: Its speed profile; empty takes the tier's.
        control: What it takes from the sketches.
        share: Share of the scenes that it makes.
        batch_size: Clips that it denoises together.
        adapter: `promoted`: the model's promoted checkpoint makes them, or its shadow its share; empty: the base.
    """

    num_cities: int = 5
    clips_per_place: int = 3
    mix: Mapping[str, float] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    targets: Mapping[str, int] = field(default_factory=dict)
    weigh_by_acceptance: bool = True
    num_frames: int = 61
    width_px: int = 256
    height_px: int = 144
    rate_fps: int = 24
    num_samples: int = 5
    min_hours_between_waves: float = 24.0
    world_model: str = ""
    tier: str = "draft"
    profile: str = ""
    control: tuple[str, ...] = ()
    share: float = 1.0
    batch_size: int = 1
    adapter: str = ""

    def model_plan(self) -> WorldModelPlan | None:
        """What its model is asked for, on the base; None without one.

        Raises:
            WorldloopError: If the model is unknown, or cannot be asked for it.
        """
        if not self.world_model:
            return None
        return plan_world_model(
            self.world_model,
            tier=self.tier,
            speed=self.profile,
            control=self.control,
            share=self.share,
            batch_size=self.batch_size,
        )


@dataclass(frozen=True)
class Promotion:
    """What `promoted_drafts` renders again at the next tier.

    Attributes:
        share: Share of a wave's surviving drafts, the best ones, 0 to 1.
        max_per_day: Promotions on one day, UTC.
        tier: Tier to render at; empty takes the next one that the model can make.
        world_model: Model that renders them; empty takes that of the drafts.
        profile: Its speed profile; empty takes the tier's.
        control: What is taken from the source; empty takes what the drafts took.
        source: `sketch`, or `draft`: the draft itself is gone on from.
        batch_size: Clips denoised together.
    """

    share: float = 0.2
    max_per_day: int = 8
    tier: str = ""
    world_model: str = ""
    profile: str = ""
    control: tuple[str, ...] = ()
    source: str = "sketch"
    batch_size: int = 1


@dataclass(frozen=True)
class Regeneration:
    """What `regeneration` plans: the places that the old checkpoint did worst, made anew by the new one.

    Attributes:
        num_places: Places of a wave, the weakest first.
        clips_per_place: Clips of each place.
        tier: Tier of the clips.
        profile: Speed profile; empty takes the tier's.
        control: What is taken from the sketches.
        batch_size: Clips denoised together.
        weight: How strongly the adapter counts.
        min_quality: A place with a smaller share of accepted clips is made anew, 0 to 1; 0: none is.
        max_attempts: Waves that one adapter may try a place in.
        allow_unguarded: Whether the release may hold unguarded clips and those of tiny models.
    """

    num_places: int = 4
    clips_per_place: int = 3
    tier: str = "draft"
    profile: str = ""
    control: tuple[str, ...] = ()
    batch_size: int = 1
    weight: float = 1.0
    min_quality: float = 0.5
    max_attempts: int = 2
    allow_unguarded: bool = False


@dataclass(frozen=True)
class Retraining:
    """When `retraining` opens a round when nobody asks for one, and what the round plans.

    Attributes:
        model: Name of the model that is post-trained; empty: no round is opened.
        min_new_hours: Hours of accepted footage, released since the last round, that are reason enough; 0: no reason.
        min_closed_gaps: Places that got enough clips since, that are reason enough; 0: no reason.
        gap_clips: A place with fewer accepted clips is a gap in the coverage.
        max_drift: Drift of the embeddings above this is reason enough; 0: no reason.
        min_hours_between_rounds: The next round opens no sooner than this after the last.
        max_gpu_s: GPU seconds that a round may use at all sites together, for training, measuring, samples
            and judging; held in the ledger until it ends.
        max_cpu_s: CPU seconds likewise, of what runs without a GPU.
        held_out_share: Share of each site's cities that is never trained on, 0 to 1.
        num_prompts: Samples before and after, one a prompt, where `trial` names no prompts.
        upload_repo: Repository on the hub that promoted checkpoints go to; empty: none.
        shadow_share: Share of the waves that a candidate makes before it is promoted, 0 to 1; 0: it is promoted at once.
        min_pairs: Clips, each beside an older one of its place, without which no checkpoint is judged by them.
        training: What a site does with its footage.
        aggregation: How deltas become an adapter.
        terms: Quorum and deadlines.
        trial: How a candidate is tried; `limits` are those of the gates, and 0 `sample_steps` the model's.
        regeneration: What a promotion makes anew.
    """

    model: str = ""
    min_new_hours: float = 1.0
    min_closed_gaps: int = 0
    gap_clips: int = 3
    max_drift: float = 0.0
    min_hours_between_rounds: float = 24.0
    max_gpu_s: float = 0.0
    max_cpu_s: float = 3600.0
    held_out_share: float = 0.1
    num_prompts: int = 8
    upload_repo: str = ""
    shadow_share: float = 0.0
    min_pairs: int = 12
    training: Training = field(default_factory=lambda: Training(ClipShape(61, 320, 192, 16)))
    aggregation: Aggregation = field(default_factory=Aggregation)
    terms: Terms = field(default_factory=Terms)
    trial: Trial = field(default_factory=lambda: Trial(sample_steps=0))
    regeneration: Regeneration = field(default_factory=Regeneration)


@dataclass(frozen=True)
class Iceberg:
    """Where the Iceberg tables of a site are listed.

    Attributes:
        kind: `sql`, `glue` or `rest`.
        uri: Database or service; empty takes a sqlite file in the home folder (`sql` only).
        namespace: Of the tables.
        warehouse: Where their files are; empty takes `iceberg` in the site's store.
        options: Further properties of pyiceberg's catalog; nothing secret.
        secrets: Secret properties, each with where it is kept (see `Site.secrets`).
    """

    kind: str = "sql"
    uri: str = ""
    namespace: str = "worldloop"
    warehouse: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Registration:
    """Under which name the cloud's own tools know the Iceberg tables.

    Attributes:
        kind: `glue`, `bigquery`, `fabric`, or empty for none.
        project: GCP project (`bigquery`) or workspace id (`fabric`).
        dataset: Data set (`bigquery`), database (`glue`) or lakehouse id (`fabric`).
        location: Region of the data set, or of the query engine.
        connection: Resource connection (`bigquery`) or connection id (`fabric`).
        endpoint: Another address of the service, for tests.
    """

    kind: str = ""
    project: str = ""
    dataset: str = "worldloop"
    location: str = ""
    connection: str = ""
    endpoint: str = ""


@dataclass(frozen=True)
class Prices:
    """What the store of a site charges, for costs and the budget `usd`.

    Attributes:
        usd_per_1000_writes: Puts, creates, lists.
        usd_per_1000_reads: Gets and heads.
        usd_per_gb_month: Storage.
        usd_per_gb_out: Bytes that leave the region.
    """

    usd_per_1000_writes: float = 0.0
    usd_per_1000_reads: float = 0.0
    usd_per_gb_month: float = 0.0
    usd_per_gb_out: float = 0.0


@dataclass(frozen=True)
class Site:
    """One member of the federation.

    Attributes:
        name: Key of the site, e.g. `local`.
        cities: Keys of its cities, or `*` for all that no other site names.
        store: URL of its store; relative paths are relative to the home folder.
        max_disk_gb: No new wave opens when the store holds more (1 GB = 1e9 bytes).
        usd_per_gpu_hour: What an hour of one GPU costs, for costs and budgets.
        budgets: What it may use a day.
        generation: What its sensor plans.
        promotion: Which drafts are rendered again.
        training: When a round of post-training opens, and what it plans; of the coordinator.
        backup: URL of a second store, which gets both logs; empty is none.
        max_lag_s: A projection that is further behind is late.
        options: Of the store's client, by obstore's names (`aws_region`); nothing secret.
        secrets: Secret options, each with where it is kept: `env:NAME`, `aws:NAME`, `gcp:NAME`, `azure:URL`.
        iceberg: Where its Iceberg tables are listed.
        registration: How the cloud's own tools know them.
        prices: What its store charges.
        agent: Whether `worldloop site-agent` or Flower carries its part of rounds; `round_conductor` then asks
            for no run of it.
    """

    name: str
    cities: tuple[str, ...]
    store: str
    backup: str = ""
    max_lag_s: float = 900.0
    options: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    iceberg: Iceberg = field(default_factory=Iceberg)
    registration: Registration = field(default_factory=Registration)
    prices: Prices = field(default_factory=Prices)
    max_disk_gb: float = 10.0
    usd_per_gpu_hour: float = 0.0
    agent: bool = False
    budgets: Budgets = field(default_factory=Budgets)
    generation: Generation = field(default_factory=Generation)
    promotion: Promotion = field(default_factory=Promotion)
    training: Retraining = field(default_factory=Retraining)

    @property
    def cloud(self) -> Cloud:
        """Whose store it is, by the scheme of its URL."""
        return CLOUDS[urlparse(self.store).scheme]


@dataclass(frozen=True)
class Sites:
    """All sites; every city is at home at one of them at most."""

    all: tuple[Site, ...]

    def site(self, name: str) -> Site:
        """A site by its name.

        Raises:
            UnknownKeyError: If there is none.
        """
        for site in self.all:
            if site.name == name:
                return site
        raise UnknownKeyError("site", name, [site.name for site in self.all])

    def site_of(self, city: str) -> Site:
        """The site at which a city is at home.

        Raises:
            UnknownKeyError: If no site names it, and none takes every city.
        """
        for wanted in (city, EVERY_CITY):
            for site in self.all:
                if wanted in site.cities:
                    return site
        raise UnknownKeyError(
            "city of any site", city, [name for site in self.all for name in site.cities]
        )

    def has_home(self, city: str) -> bool:
        """Whether a site is the home of a city."""
        return any({city, EVERY_CITY} & {*site.cities} for site in self.all)


def load_sites(path: Path) -> Sites:
    """Read a sites file.

    Raises:
        MalformedRecordError: If it is missing or does not follow the format.
    """
    try:
        record = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise MalformedRecordError(
            path.name, str(error), "a TOML file with one table [sites.NAME] a site", "Fix the file."
        ) from error
    return parse_sites(record, origin=path.name)


def parse_sites(record: Mapping[str, Any], *, origin: str = "sites.toml") -> Sites:
    """Sites from the parsed file.

    Args:
        record: `{"sites": {name: {...}}}`.
        origin: Name of the file, for messages.

    Raises:
        MalformedRecordError: If a field is unknown, of the wrong kind or out of range, or a city
            is at home at two sites.
    """
    if set(record) != {"sites"} or not isinstance(record["sites"], dict) or not record["sites"]:
        raise _malformed(origin, sorted(record), "one table [sites.NAME] a site")
    sites = tuple(_site(name, fields_, origin) for name, fields_ in record["sites"].items())
    _check_homes(sites, origin)
    for site in sites:
        _check_adapter(site, origin)
        _check_wishes(site.generation, f"{origin} [sites.{site.name}] generation")
        _check_training(site, [each.name for each in sites], origin)
    return Sites(sites)


def _site(name: str, record: Any, origin: str) -> Site:
    where = f"{origin} [sites.{name}]"
    known = {f.name for f in fields(Site)} - {"name"}
    if not isinstance(record, dict) or not {"cities", "store"} <= set(record) <= known:
        raise _malformed(where, record, f"cities and store, of {', '.join(sorted(known))}")
    cities, store = record["cities"], record["store"]
    if not isinstance(cities, list) or not all(isinstance(c, str) and c for c in cities):
        raise _malformed(f"{where} cities", cities, 'a list of city keys, or ["*"]')
    if not isinstance(store, str) or not store:
        raise _malformed(f"{where} store", store, "a folder or a URL")
    if urlparse(store).scheme not in CLOUDS:
        raise _malformed(f"{where} store", store, f"a folder or a URL of {', '.join(CLOUDS)[2:]}")
    readers: dict[str, Callable[[Any, str], Any]] = {
        **dict.fromkeys(_SITE_NUMBERS, _number),
        **dict.fromkeys(("options", "secrets"), _named_texts),
        "agent": _flag,
    }
    plain = {k: read(record[k], f"{where} {k}") for k, read in readers.items() if k in record}
    return Site(
        name,
        tuple(cities),
        store,
        backup=_text(record.get("backup", ""), f"{where} backup"),
        **plain,
        iceberg=_section(Iceberg, record.get("iceberg", {}), f"{where} iceberg"),
        registration=_section(
            Registration, record.get("registration", {}), f"{where} registration"
        ),
        prices=_section(Prices, record.get("prices", {}), f"{where} prices"),
        budgets=_section(Budgets, record.get("budgets", {}), f"{where} budgets"),
        generation=_section(Generation, record.get("generation", {}), f"{where} generation"),
        promotion=_section(Promotion, record.get("promotion", {}), f"{where} promotion"),
        training=_training(record.get("training", {}), f"{where} training"),
    )


def _training(record: Any, where: str) -> Retraining:
    """The section `training` with its tables, which have the names and fields of a round's plan."""
    if not isinstance(record, dict):
        raise _malformed(where, record, "a table")
    tables = {name: record.get(name, {}) for name in _PLANS}
    plain = {name: value for name, value in record.items() if name not in tables}
    named = _part(Retraining, plain, where)
    training = tables["training"]
    if isinstance(training, dict) and "shape" not in training:
        training = {**training, "shape": asdict(_window(named, where))}
    trial = tables["trial"]
    if isinstance(trial, dict):
        trial = {"sample_steps": 0, **trial}  # the model's
    return replace(
        named,
        training=_part(Training, training, f"{where} training"),
        aggregation=_part(Aggregation, tables["aggregation"], f"{where} aggregation"),
        terms=_part(Terms, tables["terms"], f"{where} terms"),
        trial=_part(Trial, trial, f"{where} trial"),
        regeneration=_part(Regeneration, tables["regeneration"], f"{where} regeneration"),
    )


def _window(named: Retraining, where: str) -> ClipShape:
    """The shape that is trained on when the file says none: a draft's of the model."""
    if not named.model:
        return named.training.shape
    try:
        known = model(named.model)
        return tier_shape("tiny" if known.tiny else "draft", known)
    except WorldloopError as error:
        raise _malformed(f"{where} model", named.model, str(error)) from error


def _part(part: type[_Part], record: Any, where: str) -> _Part:
    """A table of the section `training`, whose numbers may be zero."""
    types = {f.name: f.type for f in fields(part) if f.name not in _PLANS}
    if not isinstance(record, dict) or not set(record) <= set(types):
        raise _malformed(where, record, f"only {', '.join(types)}")
    readers: dict[Any, Callable[[Any, str], Any]] = {
        int: _whole,
        float: _any_number,
        bool: _flag,
        str: _text,
        Mode: _text,
        Codec: _text,
        tuple[str, ...]: _texts,
        tuple[int, ...]: _wholes,
        Mapping[str, float]: _named_numbers,
        ClipShape: _shape,
    }
    return part(
        **{name: readers[types[name]](value, f"{where} {name}") for name, value in record.items()}
    )


def _shape(value: Any, where: str) -> ClipShape:
    names = [f.name for f in fields(ClipShape)]
    if not isinstance(value, dict) or set(value) != set(names):
        raise _malformed(where, value, f"a table of {', '.join(names)}")
    return ClipShape(**{name: _count(value[name], f"{where} {name}") for name in names})


def _check_adapter(site: Site, origin: str) -> None:
    """Refuse an adapter that no wave could be made with."""
    asked, where = site.generation, f"{origin} [sites.{site.name}] generation adapter"
    if asked.adapter not in ("", PROMOTED):
        raise _malformed(where, asked.adapter, f"{PROMOTED!r}, or nothing for the base")
    if asked.adapter and not asked.world_model:
        raise _malformed(where, asked.adapter, "a world_model beside it, whose checkpoint it is")


def _check_wishes(asked: Generation, where: str) -> None:
    """Refuse a mix, weights or targets that no wave could be planned with; the table at fault is named."""
    tables: dict[str, Mapping[str, Any]] = {
        "mix": asked.mix,
        "weights": asked.weights,
        "targets": asked.targets,
    }
    wishes: dict[str, Any] = {name: table for name, table in tables.items() if table}
    if not wishes:
        return
    if asked.weights and asked.targets:
        raise _malformed(
            f"{where} weights", asked.weights, "none beside targets, which leave no place to pick"
        )
    alone = {f"{where} {name}": {name: table} for name, table in wishes.items()}
    for what, table in {**alone, where: wishes}.items():
        try:
            check_wishes(
                load_atlas(),
                num_cities=asked.num_cities,
                sketch=needs_sketches(asked.model_plan()),
                **table,
            )
        except WorldloopError as error:
            expected = f"what a wave can be planned with: {error}"
            raise _malformed(what, table, expected) from error


def _check_training(site: Site, sites: list[str], origin: str) -> None:
    """Refuse what no round could be opened with."""
    asked, where = site.training, f"{origin} [sites.{site.name}] training"
    if not asked.model:
        return
    for name, value in (
        ("held_out_share", asked.held_out_share),
        ("shadow_share", asked.shadow_share),
        ("regeneration min_quality", asked.regeneration.min_quality),
    ):
        if not 0 <= value <= 1:
            raise _malformed(f"{where} {name}", value, "0 to 1")
    for name in ("num_places", "clips_per_place", "batch_size", "max_attempts"):
        _count(getattr(asked.regeneration, name), f"{where} regeneration {name}")
    if asked.min_pairs < _LEAST_PAIRS:
        raise _malformed(f"{where} min_pairs", asked.min_pairs, f"at least {_LEAST_PAIRS}")
    _count(asked.gap_clips, f"{where} gap_clips")
    _count(asked.num_prompts, f"{where} num_prompts")
    if asked.training.mode != "lora":
        raise _malformed(
            f"{where} training mode",
            asked.training.mode,
            "'lora', as sites send adapters alone (all weights: `worldloop posttrain --full` at one place)",
        )
    if not (asked.min_new_hours > 0 or asked.min_closed_gaps > 0 or asked.max_drift > 0):
        raise _malformed(
            where, "no reason to train", "min_new_hours, min_closed_gaps or max_drift above 0"
        )
    try:
        known = model(asked.model)
        anew = asked.regeneration
        plan_world_model(
            known.name,
            tier=anew.tier,
            speed=anew.profile,
            control=anew.control,
            batch_size=anew.batch_size,
        )
        RoundPlan(
            round="r0001",
            sites=tuple(sites),
            waves=(),
            releases=(),
            base=Base(known.name, known.revision),
            training=asked.training,
            aggregation=asked.aggregation,
            terms=asked.terms,
            trial=asked.trial,
            seed=0,
            opened_at="",
        )
    except WorldloopError as error:
        raise _malformed(where, asked.model, f"what a round can carry out: {error}") from error


def _section(section: type[_Section], record: Any, where: str) -> _Section:
    types = {f.name: f.type for f in fields(section)}
    if not isinstance(record, dict) or not set(record) <= set(types):
        raise _malformed(where, record, f"only {', '.join(types)}")
    readers: dict[Any, Callable[[Any, str], Any]] = {
        int: _count,
        float: _number,
        str: _text,
        bool: _flag,
        tuple[str, ...]: _texts,
        Mapping[str, str]: _named_texts,
        Mapping[str, float]: _named_numbers,
        Mapping[str, int]: _named_counts,
    }
    return section(
        **{name: readers[types[name]](value, f"{where} {name}") for name, value in record.items()}
    )


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise _malformed(where, value, "a text in quotes")
    return value


def _texts(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise _malformed(where, value, "a list of texts")
    return tuple(_text(entry, where) for entry in value)


def _named_texts(value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, dict):
        raise _malformed(where, value, 'a table of texts, e.g. { aws_region = "eu-west-1" }')
    return {key: _text(entry, f"{where} {key}") for key, entry in value.items()}


def _count(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _malformed(where, value, "a whole number above zero")
    return value


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise _malformed(where, value, "a number of zero or more (inf is no limit)")
    return float(value)


def _whole(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise _malformed(where, value, "a whole number of zero or more")
    return value


def _wholes(value: Any, where: str) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise _malformed(where, value, "a list of whole numbers")
    return tuple(_whole(entry, where) for entry in value)


def _any_number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _malformed(where, value, "a number")
    if value < 0 and not where.endswith(" guidance"):  # a negative guidance takes the model's
        raise _malformed(where, value, "a number of zero or more")
    return float(value)


def _named_numbers(value: Any, where: str) -> dict[str, float]:
    if not isinstance(value, dict):
        raise _malformed(where, value, "a table of numbers")
    return {key: _any_number(entry, f"{where} {key}") for key, entry in value.items()}


def _named_counts(value: Any, where: str) -> dict[str, int]:
    if not isinstance(value, dict):
        raise _malformed(where, value, "a table of whole numbers")
    return {key: _count(entry, f"{where} {key}") for key, entry in value.items()}


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise _malformed(where, value, "true or false")
    return value


def _check_homes(sites: Iterable[Site], origin: str) -> None:
    home: dict[str, str] = {}
    for site in sites:
        for city in site.cities:
            if city in home:
                raise _malformed(
                    f"{origin} city {city!r}", [home[city], site.name], "one site a city"
                )
            home[city] = site.name


def _malformed(what: str, found: object, expected: str) -> MalformedRecordError:
    return MalformedRecordError(what, found, expected, "Correct sites.toml.")
