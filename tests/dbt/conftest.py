"""One small site with its marts for all tests of this folder, as a run of dbt is dear."""

import pytest

from orchestration.mart_inputs import run_dbt, variables
from tests.dbt.small_site import fill, table_frames


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """A small site with native marts: the folder, and the rows of its Iceberg tables."""
    home = tmp_path_factory.mktemp("site")
    log = fill(home / "sites" / "local")
    logs = [{"site": "local", "folder": str(home / "sites" / "local" / "logs")}]
    run_dbt("run", variables(home=home, logs=logs), target=home / "target")
    return home, table_frames(log)
