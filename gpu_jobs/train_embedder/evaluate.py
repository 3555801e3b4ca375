"""Does text search find the right clips? Precision at 10 with captions hidden, beside chance.

Run on shards of cities and seeds that the model never saw:
`python -m gpu_jobs.train_embedder.evaluate SHARDS_DIR [MODEL_DIR]`.
"""

import itertools
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_jobs.train_embedder.shards import FrameShard, read_shards
from worldloop.prompts.words import an

TOP = 10
OUTDOORS = ("street", "zoo", "amusement_park")
# Several ways to ask for the same thing; the last three are no caption templates of the training data.
INSTITUTION_QUERIES = ("{}", "footage of a {}", "somewhere in a {}", "walking through a {}")
LIGHTS = {
    "at night": ("night",),
    "at dusk": ("dusk", "dawn"),
    "by day": ("morning", "afternoon"),
}
WEATHER_WORDS = {
    "clear": "sunny",
    "cloudy": "overcast",
    "rain": "rainy",
    "fog": "foggy",
    "snow": "snowy",
}


def evaluate(model: Any, shard: FrameShard) -> list[dict[str, Any]]:
    """Ask for every institution and for weather and time of day outdoors.

    Args:
        model: An `EmbedModel`.
        shard: Held-out scenes; a scene is embedded as a clip is, frames pooled.

    Returns:
        Rows with `kind`, `query`, `num_relevant`, `num_scenes`, `chance` and `precision_at_10`
        (mean over the ways to ask); queries with fewer than 10 relevant scenes are left out.
    """
    vectors = scene_vectors(model, shard)
    rows = []
    for kind, query, texts, is_relevant in _questions(shard.scenes):
        relevant = np.array([is_relevant(scene) for scene in shard.scenes])
        if relevant.sum() < TOP or relevant.all():
            continue
        asked = model.embed_texts(texts)
        precision = np.mean([precision_at(vectors, text, relevant, TOP) for text in asked])
        rows.append(
            {
                "kind": kind,
                "query": query,
                "num_relevant": int(relevant.sum()),
                "num_scenes": len(relevant),
                "chance": round(float(relevant.mean()), 4),
                "precision_at_10": round(float(precision), 4),
            }
        )
    return rows


def scene_vectors(model: Any, shard: FrameShard, *, batch_size: int = 64) -> NDArray[np.float32]:
    """One unit vector a scene, float32 (N, D)."""
    edges = np.searchsorted(shard.scene_of_frame, np.arange(len(shard.scenes) + 1))
    clips = [shard.frames[a:b] for a, b in itertools.pairwise(edges)]
    batches = [clips[i : i + batch_size] for i in range(0, len(clips), batch_size)]
    return np.concatenate([model.embed_clips(batch) for batch in batches])


def distances(model: Any, shard: FrameShard) -> dict[str, float]:
    """Cosine distances that a dedup threshold has to lie between.

    Returns:
        Percentiles over the scenes: `twin_*` between every other frame of a scene and the frames
        between them, `neighbour_*` from a scene to the nearest other one.
    """
    odd, even = (scene_vectors(model, _every_other(shard, start)) for start in (0, 1))
    twin = 1 - (odd * even).sum(axis=1)
    apart = 1 - odd @ odd.T + 2 * np.eye(len(odd), dtype=np.float32)
    nearest = apart.min(axis=1)
    return {
        f"{name}_p{percent}": round(float(np.percentile(values, percent)), 5)
        for name, values in (("twin", twin), ("neighbour", nearest))
        for percent in (1, 50, 99)
    }


def _every_other(shard: FrameShard, start: int) -> FrameShard:
    """Frames 0, 2, ... or 1, 3, ... of each scene."""
    first = np.searchsorted(shard.scene_of_frame, shard.scene_of_frame)
    taken = (np.arange(len(first)) - first) % 2 == start
    return FrameShard(shard.frames[taken], shard.scene_of_frame[taken], shard.scenes)


def precision_at(
    vectors: NDArray[np.float32],
    query: NDArray[np.float32],
    relevant: NDArray[np.bool_],
    top: int,
) -> float:
    """Share of relevant scenes among the `top` nearest to a query.

    Example:
        >>> vectors = np.eye(3, dtype=np.float32)
        >>> precision_at(vectors, vectors[0], np.array([True, False, False]), 1)
        1.0
    """
    nearest = np.argsort(-(vectors @ query), kind="stable")[:top]
    return float(relevant[nearest].mean())


def format_rows(rows: Iterable[dict[str, Any]]) -> str:
    """The rows as a Markdown table with means per kind."""
    rows = list(rows)
    lines = [
        "| kind | query | relevant | chance | precision@10 |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        share = f"{row['num_relevant']} of {row['num_scenes']}"
        lines.append(
            f"| {row['kind']} | {row['query']} | {share} | {row['chance']:.3f} | {row['precision_at_10']:.3f} |"
        )
    for kind in dict.fromkeys(row["kind"] for row in rows):
        of_kind = [row for row in rows if row["kind"] == kind]
        chance, found = (
            np.mean([row[column] for row in of_kind]) for column in ("chance", "precision_at_10")
        )
        lines.append(f"| **{kind}** | mean of {len(of_kind)} | | {chance:.3f} | {found:.3f} |")
    return "\n".join(lines)


_Question = tuple[str, str, list[str], Callable[[dict[str, Any]], bool]]


def _questions(scenes: list[dict[str, Any]]) -> list[_Question]:
    """Kind, name, ways to ask, and which scenes answer."""
    questions: list[_Question] = []
    for institution in sorted({scene["institution"] for scene in scenes}):
        words = institution.replace("_", " ")
        texts = [template.format(words) for template in INSTITUTION_QUERIES]
        questions.append(("institution", words, texts, _has(institution=institution)))
    for institution in OUTDOORS:
        words = institution.replace("_", " ")
        for weather, word in WEATHER_WORDS.items():
            text = f"{word} {words}"
            wanted = _has(institution=institution, weather=weather)
            questions.append(("weather", text, [text, an(text)], wanted))
        for light, dayparts in LIGHTS.items():
            texts = [f"{words} {light}", f"{an(words)} {light}"]
            wanted = _has(institution=institution, daypart=dayparts)
            questions.append(("time of day", texts[0], texts, wanted))
        text = f"rainy night {words}"
        wanted = _has(institution=institution, weather="rain", daypart="night")
        questions.append(("weather and time", text, [text], wanted))
    return questions


def _has(**labels: str | tuple[str, ...]) -> Callable[[dict[str, Any]], bool]:
    wanted = {name: (v,) if isinstance(v, str) else v for name, v in labels.items()}
    return lambda scene: all(scene[name] in values for name, values in wanted.items())


def main() -> None:
    """Print the table for a folder of shards and a model folder (the starter by default)."""
    from gpu_jobs.embed_clips.model import EmbedModel

    shards, model = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""
    embedder, scenes = EmbedModel.load(model), read_shards(Path(shards))
    sys.stdout.write(format_rows(evaluate(embedder, scenes)) + "\n")
    sys.stdout.write(f"Cosine distances: {distances(embedder, scenes)}\n")


if __name__ == "__main__":
    main()
