import fcntl
import hashlib
import json
import shutil
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest

from resources.model_hub import LOCK_NAME, ModelHub, needed_folders, source
from tests.resources.hub_server import Hub, Repo, serve
from worldloop.cosmos.models import model
from worldloop.errors import MalformedRecordError, StoreError, UnknownKeyError

TOKENIZER = "Cosmos-1.0-Tokenizer-CV8x8x8"
SEVEN = "Cosmos-1.0-Diffusion-7B-Text2World"


def weights(size, seed=0):
    return np.random.default_rng(seed).bytes(size)


def tokenizer_files():
    return {
        "encoder.jit": weights(3000, 1),
        "decoder.jit": weights(400_000, 2),
        "mean_std.pt": weights(300, 3),
        "config.json": b"{}",
        "picture.mp4": weights(900, 4),
    }


@pytest.fixture
def hub(monkeypatch):
    """A local hub with a tokenizer and a model; nothing of the machine's own settings counts."""
    for name in ("HF_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10_000)
    huggingface_hub.close_session()
    held = Hub({"nvidia/Cosmos-1.0-Tokenizer-CV8x8x8": Repo(tokenizer_files())})
    with serve(held):
        yield held
    huggingface_hub.close_session()


@pytest.fixture
def models(hub, tmp_path):
    return ModelHub(checkpoint_dir=str(tmp_path / "checkpoints"), endpoint=hub.url, token="hf_x")


def tokenizer_of(hub):
    return hub.repos["nvidia/Cosmos-1.0-Tokenizer-CV8x8x8"]


def test_a_download_brings_only_what_is_needed(models):
    fetched = models.download(TOKENIZER)

    names = sorted(path.name for path in fetched.folder.iterdir() if path.is_file())
    assert names == ["config.json", "decoder.jit", "encoder.jit", "mean_std.pt"]
    assert (fetched.folder / "decoder.jit").read_bytes() == tokenizer_files()["decoder.jit"]
    assert (fetched.num_files, fetched.commit) == (4, "a" * 40)


def test_a_branch_is_locked_to_the_commit_of_the_first_download(hub, models):
    models.download(TOKENIZER)
    tokenizer_of(hub).branches = ("main", "a" * 40)
    tokenizer_of(hub).commit = "b" * 40

    assert models.download(TOKENIZER).commit == "a" * 40
    assert models.revision(TOKENIZER) == "a" * 40


def test_another_revision_replaces_the_lock(hub, models):
    models.download(TOKENIZER)
    tokenizer_of(hub).commit = "b" * 40

    assert models.download(TOKENIZER, revision="main").commit == "b" * 40
    assert models.revision(TOKENIZER) == "b" * 40


def test_a_second_download_asks_for_no_file(hub, models):
    models.download(TOKENIZER)
    hub.asked.clear()

    models.download(TOKENIZER)
    assert not [asked for asked in hub.asked if asked.startswith("GET") and "/resolve/" in asked]


def test_a_cut_download_says_so_and_goes_on_where_it_was(hub, models):
    hub.cut_at = 100_000
    tokenizer_of(hub).files["decoder.jit"] = weights(2_000_000, 2)
    with pytest.raises(StoreError, match=r"broke off.*again"):
        models.download(TOKENIZER)
    assert models.verify(TOKENIZER)

    hub.cut_at, hub.ranges[:] = 0, []
    models.download(TOKENIZER)
    assert hub.ranges == ["bytes=100000-"]
    assert models.verify(TOKENIZER, deep=True) == ()
    assert not (models.root / TOKENIZER / ".partial").exists()


def test_a_half_file_of_another_content_is_found_out(hub, models):
    sha = hashlib.sha256(tokenizer_files()["decoder.jit"]).hexdigest()
    half = models.root / TOKENIZER / ".partial" / f"decoder.jit.{sha[:16]}"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"wrong")

    with pytest.raises(StoreError, match="came with another content"):
        models.download(TOKENIZER)
    models.download(TOKENIZER)
    assert models.verify(TOKENIZER, deep=True) == ()


def test_two_downloads_of_one_folder_do_not_mix(models):
    partial = models.root / TOKENIZER / ".partial"
    partial.mkdir(parents=True)
    with (partial / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="Another process is downloading"):
            models.download(TOKENIZER)


def test_a_gated_repository_names_its_page_and_licence(hub, models):
    tokenizer_of(hub).gated = True

    with pytest.raises(
        StoreError,
        match=r"accept its licence \(NVIDIA Open Model License\).*https://huggingface.co/nvidia/Cosmos-1.0-Tok",
    ):
        models.download(TOKENIZER)


def test_a_missing_token_says_where_to_get_one(hub, models):
    tokenizer_of(hub).private = True

    with pytest.raises(StoreError, match=r"token.*huggingface.co/settings/tokens"):
        models.download(TOKENIZER)


def test_a_repository_that_is_not_there_is_named(models):
    with pytest.raises(StoreError, match=r"nvidia/Cosmos-1\.0-Guardrail is not to be seen"):
        models.download("Cosmos-1.0-Guardrail")


def test_a_wrong_revision_is_refused(models):
    with pytest.raises(MalformedRecordError, match="a commit, tag or branch"):
        models.download(TOKENIZER, revision="nowhere")


def test_without_a_network_it_says_what_to_do(tmp_path):
    alone = ModelHub(checkpoint_dir=str(tmp_path), endpoint="http://127.0.0.1:9", token="hf_x")

    with pytest.raises(StoreError, match=r"cannot be reached.*copy the folder here by hand"):
        alone.download(TOKENIZER)


def test_a_hub_that_goes_away_is_not_taken_for_a_whole_folder(hub, models):
    models.download(TOKENIZER)
    (models.root / TOKENIZER / "encoder.jit").unlink()
    away = models.model_copy(update={"endpoint": "http://127.0.0.1:9"})

    with pytest.raises(StoreError, match="cannot be reached"):
        away.download(TOKENIZER)
    models.download(TOKENIZER)
    assert models.verify(TOKENIZER) == ()


def test_a_small_disk_is_noticed_before_the_first_byte(hub, models, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**6))

    with pytest.raises(StoreError, match=r"needs 0\.0 GB more and 2 GB to spare"):
        models.download(TOKENIZER)
    assert not [asked for asked in hub.asked if "/resolve/" in asked]


def test_verify_names_missing_cut_and_changed_files(models):
    folder = models.download(TOKENIZER).folder
    (folder / "encoder.jit").unlink()
    (folder / "mean_std.pt").write_bytes(b"cut")
    (folder / "decoder.jit").write_bytes(weights(400_000, 9))

    assert models.verify(TOKENIZER, deep=True) == (
        f"{TOKENIZER}/decoder.jit has another content than its revision",
        f"{TOKENIZER}/encoder.jit is not there",
        f"{TOKENIZER}/mean_std.pt has 3 bytes instead of 300",
    )


def test_folders_put_there_by_hand_are_checked_by_their_layout(models):
    assert models.verify(SEVEN) == (
        f"{SEVEN} is not there. Run: worldloop models download {SEVEN}",
    )
    folder = models.root / SEVEN
    folder.mkdir(parents=True)
    assert "model.pt is not there" in models.verify(SEVEN)[0]
    (folder / "model.pt").write_bytes(b"weights")
    assert models.verify(SEVEN) == ()


def test_a_diffusers_folder_needs_its_parts(models):
    folder = models.root / SEVEN
    (folder / "transformer").mkdir(parents=True)
    index = {
        "_class_name": "X",
        "transformer": ["a", "B"],
        "vae": ["a", "B"],
        "guard": [None, None],
    }
    (folder / "model_index.json").write_text(json.dumps(index))

    assert models.verify(SEVEN) == (f"{SEVEN}/vae is not there",)


def test_a_broken_lock_is_one_clear_error(models):
    models.root.mkdir(parents=True)
    (models.root / LOCK_NAME).write_text("{")

    with pytest.raises(MalformedRecordError, match="Delete it and download again"):
        models.locked()


def test_a_repository_without_the_layout_is_refused(hub, models):
    hub.repos["nvidia/Cosmos-1.0-Diffusion-7B-Text2World"] = Repo({"other.bin": b"1"})

    with pytest.raises(MalformedRecordError, match="no file of its layout"):
        models.download(SEVEN, layout="diffusers")


def test_models_bring_what_they_need():
    seven = model(SEVEN)

    assert needed_folders([seven]) == (
        SEVEN,
        "google-t5/t5-11b",
        TOKENIZER,
        "Cosmos-1.0-Guardrail",
        "meta-llama/LlamaGuard-7b",
        "nvidia/Aegis-AI-Content-Safety-LlamaGuard-Defensive-1.0",
        "google/siglip-so400m-patch14-384",
        "Cosmos-1.0-Prompt-Upsampler-12B-Text2World",
    )
    assert needed_folders([seven], layout="diffusers", guardrail=False, upsampler=False) == (SEVEN,)


@pytest.mark.parametrize(
    ("name", "layout", "error", "words"),
    [
        ("Cosmos-Predict1-7B-Text2World", "diffusers", MalformedRecordError, "layout of"),
        ("Tiny-Cosmos3", None, MalformedRecordError, "worldloop models tiny Tiny-Cosmos3"),
        ("Cosmos9", None, UnknownKeyError, "model to download"),
    ],
)
def test_what_cannot_be_downloaded_is_refused(name, layout, error, words):
    with pytest.raises(error, match=words):
        source(name, layout=layout)


def test_a_tiny_model_has_a_revision_without_a_hub(tmp_path):
    assert ModelHub(checkpoint_dir=str(tmp_path)).revision("Tiny-Cosmos3") == "tiny"
