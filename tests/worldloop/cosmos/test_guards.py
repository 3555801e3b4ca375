"""The policy of guards, and what may be said of a clip."""

import pytest

from worldloop.cosmos.families import FAMILIES, family
from worldloop.cosmos.guards import (
    TEXT_GUARDS,
    VIDEO_GUARDS,
    check_policy,
    default_guards,
    effective_state,
    guards_of,
    is_guarded,
    missing_guards,
)
from worldloop.errors import MalformedRecordError

REQUIRED = [key for key, known in FAMILIES.items() if known.guardrail == "required"]
OPTIONAL = [key for key, known in FAMILIES.items() if known.guardrail == "optional"]


def test_the_first_families_require_guards_and_later_ones_do_not() -> None:
    assert set(REQUIRED) == {"cosmos1", "predict1"}
    assert set(OPTIONAL) == {"predict2", "predict2.5", "transfer2.5", "cosmos3"}


@pytest.mark.parametrize("key", REQUIRED)
@pytest.mark.parametrize(
    ("text", "video", "missing"),
    [
        ([], [], "blocklist"),
        (["blocklist"], ["content", "faces"], "aegis"),
        (["starter_blocklist", "aegis"], ["content", "faces"], "blocklist"),
        (["blocklist", "aegis"], ["faces"], "content"),
        (["blocklist", "aegis"], ["content"], "faces"),
    ],
)
def test_required_guards_cannot_be_turned_off(
    key: str, text: list[str], video: list[str], missing: str
) -> None:
    with pytest.raises(MalformedRecordError, match="cannot be turned off") as caught:
        check_policy(family(key), {"text": text, "video": video})
    assert missing in caught.value.expected
    assert "worldloop models download --guardrail" in str(caught.value)


@pytest.mark.parametrize("llm", ["aegis", "llama_guard", "qwen3guard"])
def test_any_language_model_serves_a_family_that_requires_one(llm: str) -> None:
    asked = {"text": ["blocklist", llm], "video": ["content", "faces"]}
    assert check_policy(family("cosmos1"), asked) == (("blocklist", llm), ("content", "faces"))


@pytest.mark.parametrize("key", OPTIONAL)
def test_later_families_may_run_without(key: str) -> None:
    assert check_policy(family(key), {}) == ((), ())


def test_tiny_models_may_run_without() -> None:
    assert check_policy(family("cosmos1"), {"text": [], "video": []}, tiny=True) == ((), ())


@pytest.mark.parametrize("names", [["blocklst"], ["blocklist", "blocklist"], ["faces"]])
def test_names_that_are_no_text_guards_or_stand_twice_are_refused(names: list[str]) -> None:
    with pytest.raises(MalformedRecordError, match="text guards"):
        check_policy(family("predict2"), {"text": names})


@pytest.mark.parametrize("key", FAMILIES)
def test_default_guards_satisfy_their_family(key: str) -> None:
    asked = default_guards(family(key), folder="guardrail")
    assert not missing_guards(family(key), (*asked["text"], *asked["video"]))


def test_a_state_names_guards_in_one_order_and_can_be_read_back() -> None:
    every = (*TEXT_GUARDS, *VIDEO_GUARDS)
    assert guards_of(effective_state(reversed(every))) == every
    assert guards_of(effective_state(())) == ()


@pytest.mark.parametrize("state", ["", "guarded", "text:", "text:nobody", "sound:faces"])
def test_a_state_that_nobody_wrote_is_refused(state: str) -> None:
    with pytest.raises(MalformedRecordError):
        guards_of(state)


@pytest.mark.parametrize(
    ("state", "guarded"),
    [
        ("unguarded", False),
        ("text:blocklist", False),
        ("video:content+faces", False),
        ("text:starter_blocklist video:content+faces", False),
        ("text:qwen3guard video:faces", True),
    ],
)
def test_a_clip_is_guarded_when_prompt_and_frames_were_looked_at(state: str, guarded: bool) -> None:
    assert is_guarded(state) is guarded
