"""Starts Flower's processes as rounds want them: TLS, no telemetry, no update check, nothing installed at run time.

    python -m orchestration.flower.processes link --tls tls --port 9092          # at the coordinator
    python -m orchestration.flower.processes node --tls tls --site aws --superlink coordinator.example:9092
    python -m orchestration.flower.processes submit --tls tls --superlink localhost:9092

The folder `tls` holds `ca.crt`, and `server.crt` with `server.key` of this machine, which the authority
signed for its name and for localhost. `submit` is run again after the coordinator's machine was
restarted; it goes on with what the store has. Arguments behind `--` are passed on, e.g.
`--enable-supernode-auth`.
"""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from worldloop.errors import MalformedRecordError, MissingExtraError, StoreError, WorldloopError

_APP = Path(__file__).with_name("app")
_SUPERLINK = "rounds"
_HOME_VARIABLE = "FLWR_HOME"
# flwr 1.41: supercore/telemetry.py and supercore/update_check.py
_QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}


def environment(folder: Path, base: Mapping[str, str]) -> dict[str, str]:
    """Variables of every Flower process.

    Args:
        folder: Where Flower keeps its own files.
        base: Variables that there are.
    """
    tools = str(Path(sys.executable).parent)  # it starts its other programs by their names
    path = os.pathsep.join([tools, base.get("PATH", os.defpath)])
    return {**base, **_QUIET, _HOME_VARIABLE: str(folder), "PATH": path}


def link_command(tls: Path, folder: Path, port: int, host: str = "127.0.0.1") -> list[str]:
    """A SuperLink whose state survives its process."""
    return [
        *("flower-superlink", "--host", host, "--port", str(port), *_server_tls(tls)),
        *("--database", str(folder / "superlink.sqlite")),
        "--disable-runtime-dependency-installation",
    ]


def node_command(tls: Path, site: str, superlink: str, port: int) -> list[str]:
    """The SuperNode of a site; several on one machine need different ports."""
    return [
        *("flower-supernode", "--superlink", superlink, "--root-certificates", str(tls / "ca.crt")),
        *("--port", str(port), *_server_tls(tls), "--node-config", f'site="{site}"'),
    ]


def submit_command(tls: Path, folder: Path, superlink: str, round_key: str = "") -> list[str]:
    """A run of the rounds' app; writes which SuperLink `rounds` is."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text(
        f'[superlink.{_SUPERLINK}]\naddress = "{superlink}"\n'
        f'root-certificates = "{(tls / "ca.crt").absolute()}"\n',
        encoding="utf-8",
    )
    return ["flwr", "run", str(_APP), _SUPERLINK, "--run-config", f'round="{round_key}"']


def _server_tls(tls: Path) -> list[str]:
    missing = [name for name in ("ca.crt", "server.crt", "server.key") if not (tls / name).exists()]
    if missing:
        raise StoreError(
            f"{str(tls)!r} lacks {', '.join(missing)}; expected the certificates of an authority of yours. "
            "See docs/federation.md, Flower."
        )
    return [
        *("--ssl-certfile", str(tls / "server.crt"), "--ssl-keyfile", str(tls / "server.key")),
        *("--ssl-ca-certfile", str(tls / "ca.crt")),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Become one of Flower's processes, or say in one line why not."""
    parser = argparse.ArgumentParser(prog="orchestration.flower.processes", description=__doc__)
    parser.add_argument("what", choices=["link", "node", "submit"])
    parser.add_argument("--tls", required=True, type=Path, help="Folder of the certificates.")
    parser.add_argument("--site", default="", help="Of a node.")
    parser.add_argument("--superlink", default="", help="host:port of a node's or run's SuperLink.")
    parser.add_argument("--round", default="", dest="round_key", help="Carry this one and end.")
    parser.add_argument("--host", default="127.0.0.1", help="Address that a SuperLink listens at.")
    parser.add_argument("--port", type=int, default=9092)
    given = list(sys.argv[1:] if arguments is None else arguments)
    end = given.index("--") if "--" in given else len(given)
    asked, more = parser.parse_args(given[:end]), given[end + 1 :]
    try:
        _replace_process(asked, more)
    except WorldloopError as error:
        raise SystemExit(f"Error: {error}") from None


def _replace_process(asked: argparse.Namespace, more: list[str]) -> None:
    from orchestration.deployments import home

    folder = home() / "flower"
    folder.mkdir(parents=True, exist_ok=True)
    if asked.what != "link" and ":" not in asked.superlink:
        raise MalformedRecordError("--superlink", asked.superlink, "host:port", "Give it.")
    if asked.what == "node" and not asked.site:
        raise MalformedRecordError("--site", asked.site, "the name of the node's site", "Give it.")
    commands: Mapping[str, Callable[[], list[str]]] = {
        "link": lambda: link_command(asked.tls, folder, asked.port, asked.host),
        "node": lambda: node_command(asked.tls, asked.site, asked.superlink, asked.port),
        "submit": lambda: submit_command(asked.tls, folder, asked.superlink, asked.round_key),
    }
    command = [*commands[asked.what](), *more]
    program = Path(sys.executable).with_name(command[0])
    if not program.exists():
        raise MissingExtraError("flwr", "flower")
    os.execve(program, [str(program), *command[1:]], environment(folder, os.environ))


if __name__ == "__main__":
    main()
