"""The page about Cosmos says what the program does."""

from pathlib import Path

import pytest

from orchestration.cosmos_cli import generate, models
from worldloop.cosmos.companions import COMPANIONS
from worldloop.cosmos.families import FAMILIES
from worldloop.cosmos.upsampling import UPSAMPLERS

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "cosmos.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", sorted(generate.commands))
def test_every_flag_of_generate_is_on_the_page(kind: str) -> None:
    flags = {flag for parameter in generate.commands[kind].params for flag in parameter.opts}

    assert not [flag for flag in sorted(flags) if f"`{flag}" not in TEXT]
    assert f"`generate {kind}`" in TEXT


def test_every_flag_on_the_page_exists() -> None:
    commands = (*generate.commands.values(), *models.commands.values())
    known = {
        flag
        for command in commands
        for parameter in command.params
        for flag in (*parameter.opts, *parameter.secondary_opts)
    }
    used = {word.split("`")[0].split()[0] for word in TEXT.split("`--")[1:]}

    assert {f"--{word}" for word in used} - known <= {"--nproc_per_node=N", "--gpu-gb"}


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.key)
def test_samplers_and_guards_of_a_family_are_on_the_page(family) -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith("| ")]
    word = family.title.replace("Cosmos ", "", 1).replace(" diffusion", "")
    samplers = ", ".join(f"`{name}`" for name in family.samplers)

    assert any(word in row and samplers in row for row in rows)
    assert any(word in row and family.guardrail in row for row in rows)


def test_every_upsampler_is_on_the_page_and_can_be_downloaded() -> None:
    assert all(f"`{name}`" in TEXT for name in UPSAMPLERS)
    assert set(UPSAMPLERS) <= set(COMPANIONS)
