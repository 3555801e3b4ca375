"""Guards: what has to look at prompts and frames, and what may be said of a clip afterwards.

The policy is here, without a network; the guards themselves are in
`gpu_jobs.cosmos_generate.guardrails`. The effective state of a clip names the guards that really
ran for it, and nothing else: `text:blocklist+aegis video:content+faces`, or `unguarded`.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from worldloop.cosmos.families import Family
from worldloop.errors import MalformedRecordError

BLOCKLIST, STARTER_BLOCKLIST = "blocklist", "starter_blocklist"
LLM_GUARDS = ("aegis", "llama_guard", "qwen3guard")
TEXT_GUARDS = (BLOCKLIST, *LLM_GUARDS, STARTER_BLOCKLIST)
CONTENT, FACES = "content", "faces"
VIDEO_GUARDS = (CONTENT, FACES)
UNGUARDED = "unguarded"

INSTALL_HINT = (
    "Accept the licence on its page, then install it with: worldloop models download --guardrail"
)

CATEGORIES: Mapping[str, str] = MappingProxyType(
    {
        "violence": "Violence and threats of it",
        "gore": "Gore and mutilation",
        "sexual": "Sexual content",
        "minors": "Sexual content or abuse of minors",
        "hate": "Hate of a group",
        "harassment": "Harassment and humiliation of a person",
        "self_harm": "Suicide and self-harm",
        "weapons": "Guns, bombs and illegal weapons",
        "drugs": "Drugs and other controlled substances",
        "crime": "Planning of crimes",
        "privacy": "Privacy, and real people shown without consent",
        "threat": "Threats and intimidation",
        "profanity": "Swear words",
        "jailbreak": "Text that tries to talk to the guard",
        "other": "What a guard names and this list does not",
    }
)
"""Categories of verdicts. Every guard's own codes map into them; the code stands in the reason."""


def check_policy(
    family: Family, guards: Mapping[str, Any], *, tiny: bool = False
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Refuse guards that a family does not allow.

    Families whose guardrail is `required` need the block list, one language model, the content
    filter and the face filter. Tiny models may run with any, or none: their clips show nothing.

    Args:
        family: Family of the model.
        guards: `{"text": [names], "video": [names], "dir": str}` as in `CosmosGenerateSpec.guards`.
        tiny: Whether the model is a small random one.

    Returns:
        Text guards and video guards, in the order in which they run.

    Raises:
        MalformedRecordError: If a name is unknown or stands twice, or a required guard is missing.

    Example:
        >>> from worldloop.cosmos.families import family
        >>> check_policy(family("predict2"), {"text": ["blocklist"], "video": []})
        (('blocklist',), ())
    """
    text, video = tuple(guards.get("text", ())), tuple(guards.get("video", ()))
    _check_names("text guards", text, TEXT_GUARDS)
    _check_names("video guards", video, VIDEO_GUARDS)
    missing = missing_guards(family, (*text, *video))
    if missing and not tiny:
        raise MalformedRecordError(
            f"guards of {family.title}",
            [*text, *video] or "none",
            f"{', '.join(missing)} as well, because its guardrail cannot be turned off",
            "Name them, or choose a model from Predict2 on, where guards are optional. "
            + INSTALL_HINT,
        )
    return text, video


def missing_guards(family: Family, names: Iterable[str]) -> tuple[str, ...]:
    """What a family requires beyond the named guards, in words; empty if nothing.

    Example:
        >>> from worldloop.cosmos.families import family
        >>> missing_guards(family("cosmos1"), ["blocklist", "aegis", "faces"])
        ('content',)
    """
    if family.guardrail != "required":
        return ()
    present = set(names)
    missing = [BLOCKLIST] if BLOCKLIST not in present else []
    if not present.intersection(LLM_GUARDS):
        missing.append(f"one of {'/'.join(LLM_GUARDS)}")
    return tuple(missing + [name for name in VIDEO_GUARDS if name not in present])


def default_guards(family: Family, *, folder: str = "") -> dict[str, Any]:
    """The guards that a family was published with.

    Args:
        family: Family of the model.
        folder: Guardrail folder, or the folder of all models.
    """
    llm = "aegis" if family.guardrail == "required" else "llama_guard"
    return {"text": [BLOCKLIST, llm], "video": [CONTENT, FACES], "dir": folder}


def effective_state(ran: Iterable[str]) -> str:
    """The effective guardrail state of a clip.

    Args:
        ran: Names of the guards that really ran for it.

    Raises:
        MalformedRecordError: If a name is unknown.

    Example:
        >>> effective_state(["aegis", "faces", "blocklist"])
        'text:blocklist+aegis video:faces'
        >>> effective_state([])
        'unguarded'
    """
    names = set(ran)
    _check_names("guards that ran", tuple(names), (*TEXT_GUARDS, *VIDEO_GUARDS))
    text = "+".join(name for name in TEXT_GUARDS if name in names)
    video = "+".join(name for name in VIDEO_GUARDS if name in names)
    parts = [f"text:{text}" if text else "", f"video:{video}" if video else ""]
    return " ".join(part for part in parts if part) or UNGUARDED


def guards_of(state: str) -> tuple[str, ...]:
    """The guards that a state names, the inverse of `effective_state`.

    Raises:
        MalformedRecordError: If it is not such a state.

    Example:
        >>> guards_of("text:blocklist video:content+faces")
        ('blocklist', 'content', 'faces')
    """
    if state == UNGUARDED:
        return ()
    parts = [part.partition(":") for part in state.split(" ")]
    if not all(kind in ("text", "video") and names for kind, _, names in parts):
        raise MalformedRecordError(
            "guardrail state",
            state,
            "e.g. 'text:blocklist+aegis video:content+faces', or 'unguarded'",
            "Make it with effective_state().",
        )
    names = tuple(name for _, _, joined in parts for name in joined.split("+"))
    _check_names("guards of a state", names, (*TEXT_GUARDS, *VIDEO_GUARDS))
    return names


def is_guarded(state: str) -> bool:
    """Whether prompt and frames were both looked at; our own starter block list does not count.

    Example:
        >>> is_guarded("text:blocklist video:faces"), is_guarded("text:starter_blocklist video:faces")
        (True, False)
    """
    names = set(guards_of(state))
    return bool(names & {BLOCKLIST, *LLM_GUARDS}) and bool(names & set(VIDEO_GUARDS))


def _check_names(what: str, names: tuple[str, ...], known: tuple[str, ...]) -> None:
    wrong = [name for name in names if name not in known] or [
        name for name in names if names.count(name) > 1
    ]
    if wrong:
        raise MalformedRecordError(
            what, wrong, f"names among {', '.join(known)}, each once", "Correct the names."
        )
