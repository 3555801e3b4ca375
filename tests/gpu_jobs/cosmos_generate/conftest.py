"""A folder of tiny checkpoints, which the tests of one module write once and share."""

import pytest


@pytest.fixture(scope="module")
def checkpoint_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")
