"""How much the wording of prompts varies, and whether they keep their facts: ours beside one template.

Distinct-n over all prompts; self-BLEU4 over 100 of them, each against the others (precisions of 1- to
4-grams clipped by the largest count in any other prompt, no brevity penalty); Vendi score over the
TF-IDF vectors of 1- and 2-grams (sublinear counts, smooth idf, unit length). Lower self-BLEU and a
higher Vendi score are more variety; one prompt repeated has 1.0 and 1.

    python -m tests.campaigns.prompt_diversity --num 900 [--show 10]
"""

import argparse
import itertools
import math
import re
import time
from collections import Counter
from collections.abc import Sequence

import numpy as np

from worldloop.atlas.atlas import Atlas, load_atlas
from worldloop.prompts.facts import missing_facts
from worldloop.prompts.prose import write_prose
from worldloop.prompts.words import CROWDS
from worldloop.scenes.scene import Scene
from worldloop.scenes.stream import scenes_at
from worldloop.seeds import stream

MOST_SELF_BLEU, LEAST_VENDI = 0.45, 500.0
NUM_BLEU = 100
TEMPLATE_SKIES = {
    "clear": "a clear sky",
    "cloudy": "an overcast sky",
    "rain": "light rain",
    "fog": "haze",
    "snow": "falling snow",
}
TEMPLATE_DECOR = (
    *("rope barriers", "floor arrows", "paper tickets", "plastic chairs", "stone benches"),
    *("wooden seats", "a flag pole", "shoe shelves", "a water tap", "potted plants", "a gate"),
    *("a letter box", "a clock", "a wall map", "turnstiles", "handrails"),
)
TEMPLATE_ACTS = (
    *("A queue moves forward", "A cleaner pushes a cart", "A child points at a sign"),
    *("Two workers unload a trolley", "A visitor opens an umbrella", "A guard checks tickets"),
    *("Birds lift off the paving", "A vendor hands over change", "A bus opens its doors"),
    *("Leaves blow over the steps", "A porter wheels a cart", "Someone crosses the forecourt"),
)


def one_template(scene: Scene, atlas: Atlas) -> str:
    """The prompt of a grammar that has a single sentence plan: the baseline."""
    city, kind = atlas.city(scene.city), atlas.institution(scene.institution)
    sign = scene.signs[0].text if scene.signs else "Exit"
    decor, act = TEMPLATE_DECOR[scene.seed % 16], TEMPLATE_ACTS[scene.seed // 16 % 12]
    return (
        f"A {CROWDS[scene.crowd]} {kind.name} in {city.name}, {city.country}, in {scene.season} at "
        f"{int(scene.hour)}:00 under {TEMPLATE_SKIES[scene.weather]}. Eye-level view from the entrance, "
        f"{scene.camera} camera. Bilingual signs in the local script read {sign}. Traffic keeps "
        f"{scene.driving_side}. The space is furnished with {decor}. {act}, at a natural walking pace, with "
        "consistent shadows and reflections."
    )


def distinct(texts: Sequence[str], n: int) -> float:
    """Different n-grams as a share of all."""
    grams = [gram for text in texts for gram in _grams(text.lower().split(), n)]
    return len(set(grams)) / len(grams)


def self_bleu(texts: Sequence[str], *, num: int = NUM_BLEU, seed: int = 0) -> float:
    """Mean BLEU4 of some texts, each against all others of them."""
    chosen = stream("self-bleu", seed).permutation(len(texts))[:num]
    words = [texts[index].lower().split() for index in chosen.tolist()]
    logs = np.zeros(len(words))
    for n in range(1, 5):
        counts = [Counter(_grams(text, n)) for text in words]
        most: dict[
            tuple[str, ...], tuple[int, int, int]
        ] = {}  # largest count, whose, second largest
        for index, grams in enumerate(counts):
            for gram, count in grams.items():
                top, owner, second = most.get(gram, (0, -1, 0))
                most[gram] = (
                    (count, index, top) if count > top else (top, owner, max(second, count))
                )
        for index, grams in enumerate(counts):
            shared = 0
            for gram, count in grams.items():
                top, owner, second = most[gram]
                shared += min(count, second if owner == index else top)
            logs[index] += math.log(max(1e-9, shared / max(1, sum(grams.values()))))
    return float(np.exp(logs / 4).mean())


def vendi(texts: Sequence[str]) -> float:
    """Exponential of the entropy of the eigenvalues of the similarities, at most the number of texts."""
    documents = [re.findall(r"\b\w\w+\b", text.lower()) for text in texts]
    counts = [Counter([*words, *map(" ".join, itertools.pairwise(words))]) for words in documents]
    frequency = Counter(gram for grams in counts for gram in grams)
    columns = {gram: column for column, gram in enumerate(frequency)}
    idf = np.log((1 + len(texts)) / (1 + np.array(list(frequency.values())))) + 1
    similarity = np.zeros((len(texts), len(texts)))
    matrix = np.zeros((len(texts), 4096))
    for first in range(0, len(columns), matrix.shape[1]):
        matrix[:] = 0
        for row, grams in enumerate(counts):
            for gram, count in grams.items():
                column = columns[gram]
                if first <= column < first + matrix.shape[1]:
                    matrix[row, column - first] = (1 + math.log(count)) * idf[column]
        similarity += matrix @ matrix.T
    lengths = np.sqrt(np.diag(similarity))
    values = np.linalg.eigvalsh(similarity / lengths / lengths[:, None] / len(texts))
    values = values[values > 1e-12]
    return float(np.exp(-(values * np.log(values)).sum()))


def _grams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[start:] for start in range(n)), strict=False))


def report(name: str, texts: Sequence[str]) -> tuple[float, float]:
    """Print one line; self-BLEU4 and Vendi score."""
    words = np.array([len(text.split()) for text in texts])
    bleu, score = self_bleu(texts), vendi(texts)
    ratios = " ".join(f"d{n} {distinct(texts, n):.3f}" for n in (1, 2, 3))
    print(  # noqa: T201
        f"{name:22} {len(texts)} prompts, {words.mean():.1f} words ({words.min()}-{words.max()}), {ratios}, "
        f"self-BLEU4 {bleu:.3f}, Vendi {score:.1f}"
    )
    return bleu, score


def main() -> None:
    """Print the comparison; fail when the variety is too small or a fact is lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num", type=int, default=900)
    parser.add_argument("--show", type=int, default=0)
    options = parser.parse_args()
    atlas = load_atlas()
    scenes = scenes_at(atlas, list(range(options.num)))
    write_prose(scenes[0], atlas)
    start = time.process_time()
    prose = [write_prose(scene, atlas) for scene in scenes]
    seconds = time.process_time() - start
    report("one template", [one_template(scene, atlas) for scene in scenes])
    bleu, score = report("prose of worldloop", prose)
    lost = {
        k: lost for k, scene in enumerate(scenes) if (lost := missing_facts(prose[k], scene, atlas))
    }
    print(f"{len(lost)} prompts lost a fact; {options.num / seconds:,.0f} prose prompts a second")  # noqa: T201
    for index, facts in list(lost.items())[:10]:
        print(index, facts, prose[index])  # noqa: T201
    for text in prose[: options.show]:
        print(f"\n{text}")  # noqa: T201
    if lost or bleu > MOST_SELF_BLEU or score < LEAST_VENDI * options.num / 900:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
