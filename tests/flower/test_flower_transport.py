"""A real SuperLink and three SuperNodes on loopback with TLS, each with a home of its own."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import dagster as dg
import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from assets.adapter import adapter
from orchestration.flower.processes import (
    environment,
    link_command,
    node_command,
    submit_command,
)
from resources.federation import Federation
from resources.outbox import Outbox
from resources.round_deltas import gather
from resources.round_files import read_adapter_record, standing_of
from resources.site_store import SiteStore
from tests.orchestration.small_round import HOMES, ROUND, WAVE, lay_out, plan_round, trainer
from worldloop.federation.outbox import DELTA, SCORES
from worldloop.layout import manifest_key

pytestmark = pytest.mark.cloud
pytest.importorskip("flwr", reason='pip install "worldloop[flower]"')

REPOSITORY = Path(__file__).resolve().parents[2]
TAKES_PART, DIES = ("aws", "azure"), "gcp"
WAIT_S = 120.0


@dataclass
class Machines:
    """The coordinator's and the sites' processes, each in a group of its own."""

    root: Path
    port: int
    federation: Federation
    groups: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def start(self, name: str, command: list[str], home: Path) -> None:
        folder = self.root / f"flower-{name}"
        variables = {
            **{key: value for key, value in os.environ.items() if not key.startswith("WORLDLOOP_")},
            "WORLDLOOP_HOME": str(home),
            "PYTHONPATH": str(REPOSITORY),
            "OMP_NUM_THREADS": "1",
            "TMPDIR": str(self.root),
        }
        folder.mkdir(exist_ok=True)
        with (self.root / f"{name}.log").open("ab") as log:
            self.groups[name] = subprocess.Popen(
                [str(Path(sys.executable).with_name(command[0])), *command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=environment(folder, variables),
            )

    def link(self) -> None:
        folder = self.root / "flower-link"
        self.start("link", link_command(self.root, folder, self.port), self.root / "coordinator")
        self.wait_for(self._listens)

    def node(self, site: str) -> None:
        command = node_command(self.root, site, f"localhost:{self.port}", free_port())
        self.start(site, command, self.root / site)

    def submit(self) -> None:
        folder = self.root / "flower-submit"
        command = submit_command(self.root, folder, f"localhost:{self.port}", ROUND)
        self.start("submit", command, self.root / "coordinator")
        assert self.groups["submit"].wait(WAIT_S) == 0, self.said()

    def kill(self, name: str) -> None:
        """Kill a machine: the process, and all that it has started, apps in groups of their own too."""
        process = self.groups.pop(name)
        with contextlib.suppress(psutil.NoSuchProcess):
            for each in [*psutil.Process(process.pid).children(recursive=True), process]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
        process.wait()

    def wait_for(self, condition):
        end = time.monotonic() + WAIT_S
        while not (found := condition()):
            assert time.monotonic() < end, self.said()
            time.sleep(0.1)
        return found

    def said(self) -> str:
        """The ends of all logs."""
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-2500:]}"
            for path in sorted(self.root.glob("*.log"))
        )

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0):
            return True
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_certificates(folder: Path) -> None:
    """An authority, and a certificate of it for this machine."""
    now = datetime.now(UTC)

    def certificate(subject, key, issuer, issuer_key, *, is_authority):
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
        names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
        issuer_name = issuer.subject if issuer else name
        builder = x509.CertificateBuilder(issuer_name, name, key.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(minutes=5))
        builder = builder.not_valid_after(now + timedelta(days=1))
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(
            x509.BasicConstraints(ca=is_authority, path_length=None), critical=True
        )
        return builder.sign(issuer_key, hashes.SHA256())

    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    authority = certificate("test authority", keys[0], None, keys[0], is_authority=True)
    mine = certificate("localhost", keys[1], authority, keys[0], is_authority=False)
    pem = serialization.Encoding.PEM
    (folder / "ca.crt").write_bytes(authority.public_bytes(pem))
    (folder / "server.crt").write_bytes(mine.public_bytes(pem))
    (folder / "server.key").write_bytes(
        keys[1].private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def aggregate(store: SiteStore) -> None:
    """What the coordinator's own graph does at a quorum."""
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("round", [ROUND])
        dg.materialize(
            [adapter], partition_key=ROUND, instance=instance, resources={"store": store}
        )


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    """A SuperLink and three SuperNodes, whose sites share no folder."""
    with tempfile.TemporaryDirectory(prefix="wl", ignore_cleanup_errors=True) as folder:
        root = Path(folder)
        make_certificates(root)
        coordinator = lay_out(root / "coordinator")
        for site, city in HOMES.items():
            federation = lay_out(root / site, {site: city})
            federation.store("local").delete(manifest_key(WAVE))
        found = Machines(root, free_port(), coordinator)
        try:
            for site in HOMES:
                found.node(site)
            found.link()
            yield found
        finally:
            for name in list(found.groups):
                found.kill(name)


def test_a_round_over_flower_goes_on_without_a_killed_site_and_after_a_killed_coordinator(machines):
    store, root = machines.federation.store("local"), machines.root
    outbox, plan = Outbox(store), plan_round(machines.federation)
    with contextlib.ExitStack() as trainers:
        for site in HOMES:
            how = "hang" if site == DIES else "draw"
            trainers.enter_context(trainer(root / site, site, how))
        machines.submit()
        machines.wait_for(lambda: list((root / DIES / "scratch").rglob("hangs")))
        machines.kill(DIES)
        machines.wait_for(lambda: outbox.senders(ROUND, DELTA) == [*TAKES_PART])
    gathered = gather(store, plan)
    assert [one.status for one in gathered.participation] == ["accepted", "accepted", "missing"]
    assert {one.participation.num_clips for one in gathered.deltas if one.delta} == {2}

    machines.kill("link")
    aggregate(store)
    machines.link()
    machines.submit()
    machines.wait_for(lambda: outbox.senders(ROUND, SCORES) == [*TAKES_PART])
    record = read_adapter_record(store, ROUND)
    scores = [json.loads(outbox.sent(ROUND, site, SCORES)) for site in TAKES_PART]
    assert {each["adapter_sha256"] for each in scores} == {record.adapter_sha256}
    assert standing_of(store, ROUND).deltas == TAKES_PART
