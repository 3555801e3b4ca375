"""Tiny checkpoints and footage that the tests of one module write once and share."""

import pytest

from gpu_jobs.cosmos_generate.tiny import write_tiny_checkpoint
from tests.gpu_jobs.posttrain.tiny_footage import TEXT2WORLD, VIDEO2WORLD, write_clips


@pytest.fixture(scope="session")
def checkpoint_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    for name in (TEXT2WORLD, VIDEO2WORLD):
        write_tiny_checkpoint(name, folder)
    return folder


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """A site's folder with three clips in `footage`."""
    folder = tmp_path_factory.mktemp("site")
    write_clips(folder / "footage")
    return folder
