"""moto's S3, Glue, STS, IAM and Secrets Manager in a process that may be killed at any moment.

moto keeps everything in memory. So every request that changed something and succeeded is written to
a journal before it is answered, one at a time, in the order in which moto applied them; at the start
the journal is applied again. What was acknowledged is there after kill -9. Run as a program.

Glue refuses an update of a version that is not the newest, as the service does and moto does not
(https://docs.aws.amazon.com/glue/latest/webapi/API_UpdateTable.html, VersionId).
"""

import argparse
import base64
import io
import json
import re
import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

READS = {"GET", "HEAD", "OPTIONS"}
READING_ACTIONS = re.compile(rb"Action=(Get|List|Describe|AssumeRole)")
READING_TARGETS = re.compile(r"\.(Get|List|Describe|BatchGet|Search)")
UPLOAD_ID = re.compile(rb"<UploadId>([^<]+)</UploadId>")

Answer = tuple[str, list[tuple[str, str]], bytes]


class Journaled:
    """A WSGI application whose changes outlive the process."""

    def __init__(self, application: Callable[..., Iterable[bytes]], path: Path) -> None:
        self._application = application
        self._lock = threading.Lock()
        self._uploads: dict[str, str] = {}
        self._replay(path)
        self._journal = path.open("ab", buffering=0)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer a request; one that changes something is in the journal before its answer."""
        body = _body(environ)
        if _only_reads(environ, body):
            answer = self._apply(environ, body)
        else:
            with self._lock:
                answer = _stale_update(environ, body) or self._apply(environ, body)
                if answer[0].startswith("2"):
                    self._record(environ, body, answer)
        status, headers, content = answer
        start_response(status, headers)
        return [content]

    def _apply(self, environ: dict[str, Any], body: bytes) -> Answer:
        said: list[Any] = []
        asked = {
            **environ,
            "wsgi.input": io.BytesIO(body),
            "QUERY_STRING": self._current(environ["QUERY_STRING"]),
        }
        parts = self._application(asked, lambda status, headers, *_: said.extend((status, headers)))
        content = b"".join(parts)
        if hasattr(parts, "close"):
            parts.close()
        return said[0], said[1], content

    def _current(self, query: str) -> str:
        for was, now in self._uploads.items():
            query = query.replace(was, now)
        return query

    def _record(self, environ: dict[str, Any], body: bytes, answer: Answer) -> None:
        kept = {k: v for k, v in environ.items() if isinstance(v, str)}
        line = {
            "at": datetime.now(UTC).isoformat(),
            "environ": kept,
            "body": base64.b64encode(body).decode(),
            "upload": _upload(answer),
        }
        self._journal.write(json.dumps(line).encode() + b"\n")

    def _replay(self, path: Path) -> None:
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]  # the last line may be half a line
        if len(whole) < len(content):
            path.write_bytes(whole)
        for line in whole.splitlines():
            record = json.loads(line)
            body = base64.b64decode(record["body"])
            environ = {**record["environ"], "wsgi.url_scheme": "http", "wsgi.version": (1, 0)}
            answer = self._at(datetime.fromisoformat(record["at"]), environ, body)
            if record["upload"]:
                self._uploads[record["upload"]] = _upload(answer)

    def _at(self, moment: datetime, environ: dict[str, Any], body: bytes) -> Answer:
        import moto.s3.models as s3

        ours, s3.utcnow = s3.utcnow, lambda: moment.replace(tzinfo=None)
        try:
            return self._apply({**environ, "wsgi.errors": io.StringIO()}, body)
        finally:
            s3.utcnow = ours


def _body(environ: dict[str, Any]) -> bytes:
    """The whole body; of one that came in chunks the length is known from now on."""
    chunked = environ.pop("HTTP_TRANSFER_ENCODING", "") == "chunked"
    size = -1 if chunked else int(environ.get("CONTENT_LENGTH") or 0)
    body: bytes = environ["wsgi.input"].read(size)
    environ["CONTENT_LENGTH"] = str(len(body))
    return body


def _only_reads(environ: dict[str, Any], body: bytes) -> bool:
    if environ["REQUEST_METHOD"] in READS:
        return True
    target = environ.get("HTTP_X_AMZ_TARGET", "")
    return bool(READING_TARGETS.search(target) or (not target and READING_ACTIONS.match(body)))


def _upload(answer: Answer) -> str:
    """The id of the multipart upload that an answer opens."""
    found = UPLOAD_ID.search(answer[2][:2000])
    return found[1].decode() if found else ""


def _stale_update(environ: dict[str, Any], body: bytes) -> Answer | None:
    if environ.get("HTTP_X_AMZ_TARGET") != "AWSGlue.UpdateTable":
        return None
    asked = json.loads(body)
    wanted = asked.get("VersionId")
    if wanted is None or wanted == _newest_version(environ, asked):
        return None
    words = {
        "__type": "ConcurrentModificationException",
        "message": f"Update table failed due to concurrent modifications: not version {wanted}.",
    }
    headers = [("Content-Type", "application/x-amz-json-1.1")]
    return "400 Bad Request", headers, json.dumps(words).encode()


def _newest_version(environ: dict[str, Any], asked: dict[str, Any]) -> str | None:
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.glue import glue_backends

    region = re.search(r"/\d{8}/([a-z0-9-]+)/glue/", environ.get("HTTP_AUTHORIZATION", ""))
    backend = glue_backends[DEFAULT_ACCOUNT_ID][region[1] if region else "us-east-1"]
    database = backend.databases.get(asked["DatabaseName"])
    table = database.tables.get(asked["TableInput"]["Name"]) if database else None
    return max(table.versions, key=int) if table else None


def main() -> None:
    """Serve on loopback until killed."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("--folder", type=Path, required=True)
    asked = arguments.parse_args()
    from moto.server import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import run_simple

    class Handler(MotoRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_request(self, *_: Any) -> None:
            """Say nothing."""

    application = Journaled(
        DomainDispatcherApplication(create_backend_app), asked.folder / "journal.jsonl"
    )
    run_simple("127.0.0.1", asked.port, application, threaded=True, request_handler=Handler)


if __name__ == "__main__":
    main()
