"""Prompts that a language model wrote anew: what it is asked, and whether its answer may be used.

The answer must keep every fact of the scene, stay within the words of our prose and invent no sign;
otherwise our prose stays. How a model is reached is in `resources/prompt_upsampler.py`.
"""

import re

from worldloop.atlas.atlas import Atlas
from worldloop.prompts.boards import quoted_signs
from worldloop.prompts.facts import missing_facts
from worldloop.prompts.prose import MAX_WORDS, MIN_WORDS, activity_of, told_details
from worldloop.prompts.words import num_words
from worldloop.scenes.scene import Scene

INSTRUCTIONS = (
    "You rewrite descriptions of short videos. Write one paragraph of plain, concrete English with "
    f"{MIN_WORDS + 5} to {MAX_WORDS - 10} words about one continuous shot. Keep every fact: names of "
    "places, numbers, season, time, weather, light, camera, the side of the road, what people do and the "
    "details. Keep texts in curly quotation marks letter for letter and add no others. Invent nothing that "
    "contradicts the facts, name no brand or real institution, and do not explain yourself."
)


def question(prose: str, scene: Scene, atlas: Atlas) -> str:
    """What a model is asked about a scene.

    Args:
        prose: Our description of the scene.
        scene: The scene.
        atlas: For the words of its activity.
    """
    activity = activity_of(scene, atlas)
    kept = [f"sign text: \u201c{sign.text}\u201d" for sign in quoted_signs(scene)]
    kept += [f"what happens: {activity.says}"] if activity else []
    kept += [f"detail: {detail.says}" for detail in told_details(scene)[:3]]
    facts = "\n".join(f"- {fact}" for fact in kept)
    return f"Rewrite this description:\n{prose}\n\nAmong its facts are:\n{facts}"


def cleaned(answer: str) -> str:
    """The paragraph of an answer, without quotation marks around it and doubled spaces."""
    text = " ".join(answer.replace("```", " ").split())
    return text[1:-1].strip() if len(text) > 1 and text[0] == text[-1] == '"' else text


def faults(text: str, scene: Scene, atlas: Atlas) -> list[str]:
    """Why a rewritten prompt may not be used; empty if it may.

    Args:
        text: A prompt in prose.
        scene: What it is about.
        atlas: For names.
    """
    found = missing_facts(text, scene, atlas)
    count = num_words(text)
    if not MIN_WORDS <= count <= MAX_WORDS:
        found.append(f"words: {count}")
    known = {sign.text for sign in scene.signs}
    found += [
        f"invented sign: {quoted}"
        for quoted in re.findall("\u201c(.+?)\u201d", text)
        if quoted.rstrip(".,;") not in known
    ]
    wrong = "left" if scene.driving_side == "right" else "right"
    if scene.institution == "street" and re.search(
        rf"(keep\w* to|drives? on) the {wrong}\b", text.lower()
    ):
        found.append(f"side: {wrong} instead of {scene.driving_side}")
    return found
