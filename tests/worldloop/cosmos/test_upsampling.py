"""Which upsampler reads what, and when a prompt is left alone."""

import pytest

from worldloop.cosmos.families import Task, family
from worldloop.cosmos.requests import ClipRequest, Conditioning
from worldloop.cosmos.upsampling import (
    UPSAMPLERS,
    Mode,
    UpsamplingPlan,
    default_upsampler,
    plan_upsampling,
    upsampler_kind,
)
from worldloop.errors import MalformedRecordError, UnknownKeyError

PICTURE = Conditioning("first.png")


def plan(
    key: str,
    task: Task,
    prompt: str = "A tram.",
    picture: bool = False,
    *,
    enabled: bool = True,
    upsampler: str = "",
    mode: Mode | None = None,
    word_limit: int | None = None,
) -> UpsamplingPlan:
    request = ClipRequest("a", prompt, conditioning=PICTURE if picture else None)
    return plan_upsampling(
        family(key),
        task,
        request,
        enabled=enabled,
        upsampler=upsampler,
        mode=mode,
        word_limit=word_limit,
    )


@pytest.mark.parametrize(
    ("key", "task", "expected"),
    [
        ("cosmos1", "text2world", ("Cosmos-1.0-Prompt-Upsampler-12B-Text2World", "text")),
        ("predict1", "text2world", ("Cosmos-UpsamplePrompt1-12B-Text2World", "text")),
        ("cosmos1", "video2world", ("Pixtral-12B", "picture")),
        ("predict2", "video2world", ("Qwen/Qwen2.5-VL-7B-Instruct", "picture_and_text")),
        ("predict2", "text2image", None),
        ("cosmos3", "text2world", None),
    ],
)
def test_families_have_their_upsamplers(
    key: str, task: Task, expected: tuple[str, str] | None
) -> None:
    assert default_upsampler(family(key), task) == expected


@pytest.mark.parametrize("picture", [False, True])
def test_without_the_upsampler_a_prompt_is_required(picture: bool) -> None:
    with pytest.raises(MalformedRecordError, match="the prompt upsampler is off"):
        plan("cosmos1", "video2world", "  ", picture, enabled=False)
    assert not plan("cosmos1", "video2world", "A tram.", picture, enabled=False).upsampler


def test_picture_mode_needs_no_prompt_and_ignores_the_word_limit() -> None:
    assert plan("cosmos1", "video2world", "", True).mode == "picture"
    assert plan("cosmos1", "video2world", "word " * 300, True).upsampler == "Pixtral-12B"


def test_text_and_mixed_modes_need_a_prompt() -> None:
    for key, task, picture in (("cosmos1", "text2world", False), ("predict2", "video2world", True)):
        with pytest.raises(MalformedRecordError, match="words"):
            plan(key, task, "", picture)  # type: ignore[arg-type]


def test_a_mode_that_reads_a_picture_needs_one() -> None:
    with pytest.raises(MalformedRecordError, match="--input_image_or_video_path"):
        plan("predict2", "video2world")


@pytest.mark.parametrize(("words", "upsamples"), [(250, True), (251, False)])
def test_prompts_over_the_word_limit_are_left_alone(words: int, upsamples: bool) -> None:
    found = plan("cosmos1", "text2world", "word " * words)
    assert bool(found.upsampler) is upsamples
    assert str(words) in found.reason


def test_the_word_limit_can_be_set_and_lifted() -> None:
    assert not plan("cosmos1", "text2world", "one two three", word_limit=2).upsampler
    assert plan("cosmos1", "text2world", "word " * 999, word_limit=0).upsampler


def test_an_upsampler_is_not_asked_for_what_it_cannot_read() -> None:
    with pytest.raises(MalformedRecordError, match="one of picture"):
        plan("cosmos1", "video2world", "A tram.", True, upsampler="Pixtral-12B", mode="text")


def test_a_family_without_an_upsampler_takes_one_by_name() -> None:
    with pytest.raises(MalformedRecordError, match="none of its own"):
        plan("cosmos3", "text2world")
    named = plan("cosmos3", "text2world", upsampler="Qwen/Qwen2.5-VL-7B-Instruct", mode="text")
    assert named.upsampler == "Qwen/Qwen2.5-VL-7B-Instruct"


def test_upsamplers_are_found_by_the_end_of_a_path() -> None:
    for name in UPSAMPLERS:
        assert upsampler_kind(f"checkpoints/{name}").name == name
    assert upsampler_kind("Qwen2.5-VL-7B-Instruct").architecture == "qwen2_5_vl"
    with pytest.raises(UnknownKeyError):
        upsampler_kind("Pixtral-13B")
