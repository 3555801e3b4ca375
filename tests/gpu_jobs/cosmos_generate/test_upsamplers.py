"""Upsamplers: tiny twins in the real layouts, and what is done with their words."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from gpu_jobs.cosmos_generate.upsamplers import (
    MISTRAL_REQUEST,
    LanguageUpsampler,
    clean_answer,
    load_upsampler,
    messages_for,
    shrink,
)
from worldloop.cosmos.upsampling import UPSAMPLERS, Mode, upsampler_kind
from worldloop.errors import ClipRejectedError, JobFailedError, MalformedRecordError

MISTRAL = "Cosmos-1.0-Prompt-Upsampler-12B-Text2World"
PIXTRAL = "Pixtral-12B"
QWEN = "Qwen/Qwen2.5-VL-7B-Instruct"
TEXT = "A tram."


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from gpu_jobs.cosmos_generate.tiny.upsamplers import write_tiny_upsampler

    folder = tmp_path_factory.mktemp("upsamplers")
    for name in (MISTRAL, PIXTRAL, QWEN):
        write_tiny_upsampler(name, folder / name)
    write_tiny_upsampler(MISTRAL, folder / "original", original=True)
    return folder


def picture(seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (2, 48, 64, 3), np.uint8)


@pytest.mark.parametrize(
    ("name", "mode"), [(kind.name, mode) for kind in UPSAMPLERS.values() for mode in kind.modes]
)
def test_every_upsampler_writes_the_same_words_again(
    checkpoints: Path, name: str, mode: Mode
) -> None:
    place = checkpoints / MISTRAL if name.startswith("Cosmos") else checkpoints
    upsampler = load_upsampler(name, place)
    written = upsampler.upsample(TEXT, picture(), mode=mode, seed=1)
    assert len(written.split()) >= 5
    assert upsampler.upsample(TEXT, picture(), mode=mode, seed=2) == written
    assert set(upsampler.parts) == {"model"}


@pytest.mark.parametrize(
    ("name", "mode", "reads_text", "reads_picture"),
    [
        (MISTRAL, "text", True, False),
        (PIXTRAL, "picture", False, True),
        (QWEN, "picture_and_text", True, True),
        (QWEN, "text", True, False),
    ],
)
def test_modes_read_what_they_say(
    checkpoints: Path, name: str, mode: Mode, reads_text: bool, reads_picture: bool
) -> None:
    upsampler = load_upsampler(name, checkpoints)
    inputs = upsampler._inputs(TEXT, None if mode == "text" else picture()[-1], mode)
    read = upsampler._tokenizer.decode(inputs["input_ids"][0])
    assert (TEXT in read) is reads_text
    assert ("pixel_values" in inputs) is reads_picture


@pytest.mark.parametrize(("name", "mode"), [(PIXTRAL, "picture"), (QWEN, "picture_and_text")])
def test_the_last_frame_is_what_is_looked_at(checkpoints: Path, name: str, mode: Mode) -> None:
    upsampler = load_upsampler(name, checkpoints)
    frames = picture()
    other_first = frames.copy()
    other_first[0] = 0
    black, white = np.zeros_like(frames), np.full_like(frames, 255)
    words = [upsampler.upsample(TEXT, f, mode=mode) for f in (frames, other_first, black, white)]
    assert words[0] == words[1]
    assert len(set(words)) > 1


def test_a_temperature_follows_the_seed(checkpoints: Path) -> None:
    upsampler = load_upsampler(MISTRAL, checkpoints, temperature=5.0)
    first, second = (upsampler.upsample(TEXT, None, mode="text", seed=seed) for seed in (1, 2))
    assert first == upsampler.upsample(TEXT, None, mode="text", seed=1)
    assert first != second


def test_the_original_layout_computes_what_the_transformers_layout_does(checkpoints: Path) -> None:
    import torch

    ours = load_upsampler(MISTRAL, checkpoints).parts["model"]
    original = load_upsampler(MISTRAL, checkpoints / "original").parts["model"]
    ids = torch.arange(40)[None]
    with torch.inference_mode():
        torch.testing.assert_close(original(ids).logits, ours(ids).logits, rtol=0, atol=0)


def test_rows_of_queries_go_from_neighbouring_pairs_to_halves() -> None:
    import torch

    from gpu_jobs.cosmos_generate.upsamplers import nemo_weights

    rows = torch.arange(8.0)[:, None]
    moved = nemo_weights({"layers.0.attention.wq.weight": rows, "rope.freqs": rows}, head_dim=4)
    assert list(moved) == ["model.layers.0.self_attn.q_proj.weight"]
    assert moved["model.layers.0.self_attn.q_proj.weight"][:, 0].tolist() == [
        0,
        2,
        1,
        3,
        4,
        6,
        5,
        7,
    ]


def test_the_language_model_says_plain_letters_only(checkpoints: Path) -> None:
    upsampler = load_upsampler(QWEN, checkpoints)
    tokenizer = upsampler._tokenizer
    allowed = upsampler.allowed_tokens
    assert allowed[tokenizer.convert_tokens_to_ids(" tram")]
    assert not allowed[tokenizer.convert_tokens_to_ids("é")]


@pytest.mark.parametrize(
    ("name", "mode", "prompt", "frames"),
    [
        (MISTRAL, "picture", TEXT, picture()),
        (PIXTRAL, "text", TEXT, None),
        (MISTRAL, "text", "  ", None),
        (QWEN, "picture_and_text", TEXT, None),
        (QWEN, "picture", "", picture()[:0]),
    ],
)
def test_an_upsampler_refuses_what_it_cannot_read(
    checkpoints: Path, name: str, mode: Mode, prompt: str, frames: NDArray[np.uint8] | None
) -> None:
    with pytest.raises(MalformedRecordError):
        load_upsampler(name, checkpoints).upsample(prompt, frames, mode=mode)


def test_an_answer_without_words_rejects_the_clip(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LanguageUpsampler, "_generate", lambda *_: ' "- \n"')
    with pytest.raises(ClipRejectedError, match="holds no words") as caught:
        load_upsampler(MISTRAL, checkpoints).upsample(TEXT, None, mode="text")
    assert caught.value.stage == "upsample"


def test_a_missing_upsampler_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(JobFailedError, match="worldloop models download Pixtral-12B"):
        load_upsampler(PIXTRAL, tmp_path)


def test_the_makers_own_layout_of_pixtral_is_named(tmp_path: Path) -> None:
    (tmp_path / "params.json").write_text("{}", encoding="utf-8")
    with pytest.raises(JobFailedError, match="mistral-community/pixtral-12b"):
        load_upsampler(PIXTRAL, tmp_path)


def test_a_folder_of_another_model_is_refused(checkpoints: Path) -> None:
    with pytest.raises(JobFailedError, match="holds a model of type 'mistral'"):
        load_upsampler(PIXTRAL, checkpoints / MISTRAL)


def test_a_folder_without_its_weights_is_refused(checkpoints: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoints / MISTRAL, tmp_path / MISTRAL)
    (folder / "model.safetensors").unlink()
    with pytest.raises(JobFailedError, match="cannot be loaded"):
        load_upsampler(MISTRAL, tmp_path)


def test_the_fine_tuned_model_is_asked_in_the_words_it_was_trained_on() -> None:
    (message,) = messages_for(upsampler_kind(MISTRAL), TEXT, "text")
    assert message == {"role": "user", "content": MISTRAL_REQUEST + TEXT}


def test_picture_mode_never_shows_the_users_words() -> None:
    assert TEXT not in str(messages_for(upsampler_kind(PIXTRAL), TEXT, "picture"))


@pytest.mark.parametrize(
    ("answer", "prompt"),
    [
        ("Caption: A tram rings.\nIt turns.", "A tram rings. It turns."),
        ("##### - **Scene** A tram.", "A tram."),
        ("- **Setting:** A quiet street. - **Light** Dusk.", "A quiet street. Dusk."),
        ("“A tram.”", "A tram."),
        ("- **a b c d e f g h i j k**", "**a b c d e f g h i j k**"),
        ("\r\n ", ""),
    ],
)
def test_answers_become_one_clean_paragraph(answer: str, prompt: str) -> None:
    assert clean_answer(answer).strip("*") == prompt.strip("*")


@pytest.mark.parametrize(
    ("size", "expected"),
    [((704, 1280), (1024, 564)), ((100, 60), (60, 100)), ((1024, 1), (1, 1024))],
)
def test_large_pictures_are_shrunk(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert shrink(np.zeros((*size, 3), np.uint8)).size == expected
