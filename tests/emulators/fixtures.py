"""Emulators as fixtures: one server of each kind a session, started when a test first asks for it.

`emulator` runs a test once on each of the three. Azurite needs Node.js: without it those tests are
skipped and say how to install it.
"""

from collections.abc import Iterator

import pytest

from tests.emulators.clouds import Emulator, running
from tests.emulators.servers import EmulatorMissingError, azurite_program


@pytest.fixture(scope="session")
def aws_emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """S3, Glue, STS and Secrets Manager."""
    with running("aws", tmp_path_factory.mktemp("aws")) as emulator:
        yield emulator


@pytest.fixture(scope="session")
def gcp_emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """GCS."""
    with running("gcp", tmp_path_factory.mktemp("gcp")) as emulator:
        yield emulator


@pytest.fixture(scope="session")
def azure_emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """Azure Blob Storage."""
    skip_without_azurite()
    with running("azure", tmp_path_factory.mktemp("azure")) as emulator:
        yield emulator


def skip_without_azurite() -> None:
    """Skip the test, and say how to install Azurite, where there is none."""
    try:
        azurite_program()
    except EmulatorMissingError as missing:
        pytest.skip(str(missing))


@pytest.fixture(
    params=["aws", "gcp", pytest.param("azure", marks=pytest.mark.cloud)], scope="session"
)
def emulator(request: pytest.FixtureRequest) -> Emulator:
    """Each of the three; take `emulator.fresh_site()` to write to."""
    found: Emulator = request.getfixturevalue(f"{request.param}_emulator")
    return found
