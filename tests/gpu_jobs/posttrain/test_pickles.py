import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from gpu_jobs.posttrain.pickles import read_pickle, write_pickle, write_pickles
from gpu_jobs.posttrain.spec import EmbeddingsSpec
from tests.gpu_jobs.posttrain.folders import write_folder
from tests.gpu_jobs.posttrain.tiny_footage import TEXT2WORLD as MODEL
from worldloop.errors import MalformedRecordError
from worldloop.seeds import stream


def states(length=7, width=16):
    return stream(1, "states").standard_normal((length, width)).astype(np.float16)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("dtype", ["float16", "float32", ">f4"])
def test_every_protocol_and_width_of_the_published_format_is_read(tmp_path, protocol, dtype):
    path = tmp_path / "a.pickle"
    path.write_bytes(pickle.dumps([states().astype(dtype)], protocol=protocol))

    np.testing.assert_array_equal(read_pickle(path), states().astype(np.float32))


def test_what_is_written_opens_as_the_published_loader_opens_it(tmp_path):
    write_pickle(tmp_path / "a.pickle", states())

    found = pickle.loads((tmp_path / "a.pickle").read_bytes())
    assert (type(found), len(found), found[0].dtype) == (list, 1, np.float16)
    np.testing.assert_array_equal(found[0], states())


class Runs:
    """A pickle that runs something when it is opened."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_malicious_pickle_is_refused_and_runs_nothing(tmp_path, protocol):
    path, mark = tmp_path / "a.pickle", tmp_path / "owned"
    path.write_bytes(pickle.dumps([states(), Runs(os.mkdir, str(mark))], protocol=protocol))

    with pytest.raises(MalformedRecordError, match=r"it wants to use (posix|os)\.mkdir"):
        read_pickle(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps([np.array([Runs(print, "x")], object)]),
        pickle.dumps([np.array(["words"])]),
        pickle.dumps([states(), states()]),
        pickle.dumps([np.full((2, 4), np.nan, np.float16)]),
        pickle.dumps([np.zeros(3, np.float16)]),
        pickle.dumps(7),
        pickle.dumps([states()])[:-20],
        pickle.dumps([states()]).replace(b"K\x07K\x10", b"K\x09K\x10"),
        b"",
        b"(" * 100,
    ],
)
def test_what_is_no_encoding_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "a.pickle").write_bytes(content)
    with pytest.raises(MalformedRecordError, match="worldloop embeddings") as refused:
        read_pickle(tmp_path / "a.pickle")
    assert "\n" not in str(refused.value)


def test_a_prompt_is_written_for_every_video_as_the_published_script_does(tmp_path, checkpoint_dir):
    folder = write_folder(tmp_path / "data", {"a": "A red bus.", "b": "x"}, num_frames=2)
    (folder / "metas" / "b.txt").unlink()
    spec = EmbeddingsSpec(MODEL, str(checkpoint_dir), str(folder), prompt="A video of sks robot.")

    report = write_pickles(spec)
    assert (report.written, report.metas) == (["a", "b"], 1)
    assert (folder / "metas" / "b.txt").read_text() == "A video of sks robot."
    assert (folder / "metas" / "a.txt").read_text() == "A red bus."
    assert read_pickle(folder / "t5_xxl" / "b.pickle").shape[1] == report.width
    assert write_pickles(spec).kept == 2


def test_an_encoding_is_the_one_that_generation_makes_without_its_padding(tmp_path, checkpoint_dir):
    import torch

    from gpu_jobs.cosmos_generate.backends.registry import load_model
    from worldloop.cosmos.models import model

    folder = write_folder(tmp_path, {"a": "A red bus at night."}, num_frames=2)
    write_pickles(EmbeddingsSpec(MODEL, str(checkpoint_dir), str(folder)))
    world = load_model(model(MODEL), checkpoint_dir, dtype=torch.float32, device="cpu")
    expected = world.encode("A red bus at night.", "").cond.numpy()

    found = read_pickle(folder / "t5_xxl" / "a.pickle")
    np.testing.assert_allclose(found, expected[: len(found)], atol=2e-3)
    assert not expected[len(found) :].any()


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"model": "Tiny-Cosmos-Predict2.5"}, "not T5"), ({}, "metas/a.txt")],
)
def test_a_model_without_t5_and_a_video_without_words_are_refused(tmp_path, changes, words):
    folder = write_folder(tmp_path, {"a": ""}, num_frames=2)
    spec = EmbeddingsSpec(
        **{"model": MODEL, "checkpoint_dir": ".", "footage_dir": str(folder), **changes}
    )
    with pytest.raises(MalformedRecordError, match=words):
        write_pickles(spec)


def test_reading_encodings_needs_no_torch():
    code = "import sys, gpu_jobs.posttrain.pickles; assert not {'torch', 'polars', 'dagster'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
