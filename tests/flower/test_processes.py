import os
import subprocess
import sys
import tomllib

import pytest

from orchestration.flower.processes import (
    environment,
    link_command,
    main,
    node_command,
    submit_command,
)


@pytest.fixture
def tls(tmp_path):
    for name in ("ca.crt", "server.crt", "server.key"):
        (tmp_path / name).touch()
    return tmp_path


def test_no_process_tells_anybody_or_installs_anything(tls, tmp_path):
    variables = environment(tmp_path, {"PATH": "/bin"})
    assert variables["FLWR_TELEMETRY_ENABLED"] == "0"
    assert variables["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    link, node = link_command(tls, tmp_path, 1), node_command(tls, "aws", "host:1", 2)
    assert "--disable-runtime-dependency-installation" in link
    assert not {"--insecure", "--allow-runtime-dependency-installation"} & {*link, *node}


def test_a_run_goes_to_the_superlink_that_is_named(tls, tmp_path):
    command = submit_command(tls, tmp_path / "flower", "host:9092", "r0001")
    written = tomllib.loads((tmp_path / "flower" / "config.toml").read_text())

    assert written["superlink"][command[3]] == {
        "address": "host:9092",
        "root-certificates": str(tls / "ca.crt"),
    }
    assert command[-1] == 'round="r0001"'


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["link"], "lacks ca.crt, server.crt, server.key"),
        (["node", "--site", "aws"], "--superlink: found '', expected host:port"),
        (["node", "--superlink", "host:1"], "--site: found ''"),
    ],
)
def test_what_is_missing_is_said_in_one_line(tmp_path, monkeypatch, arguments, words):
    monkeypatch.setenv("WORLDLOOP_HOME", str(tmp_path / "home"))
    with pytest.raises(SystemExit, match=words) as ended:
        main([*arguments, "--tls", str(tmp_path)])
    assert "\n" not in str(ended.value)


def test_without_the_extra_it_says_what_to_install(tls):
    if subprocess.run([sys.executable, "-c", "import flwr"], capture_output=True).returncode == 0:
        pytest.skip("flwr is installed here")
    command = [sys.executable, "-m", "orchestration.flower.processes", "link", "--tls", str(tls)]
    variables = {**os.environ, "WORLDLOOP_HOME": str(tls / "home")}
    ended = subprocess.run(command, capture_output=True, text=True, env=variables)
    assert (ended.returncode, 'pip install "worldloop[flower]"' in ended.stderr) == (1, True)
