"""A hub on this machine that speaks what huggingface_hub asks of one: info, tree, resolve with ranges."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Repo:
    """One repository: files by path, and what `main` points to."""

    files: dict[str, bytes]
    commit: str = "a" * 40
    gated: bool = False
    private: bool = False
    branches: tuple[str, ...] = ("main",)


@dataclass
class Hub:
    """What the server holds, and what it was asked."""

    repos: dict[str, Repo]
    cut_at: int = 0
    url: str = ""
    ranges: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Serve a hub on the loopback address while the block runs."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self._answer(with_body=False)

    def do_GET(self):
        self._answer(with_body=True)

    def log_message(self, *words):
        pass

    def _answer(self, *, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.hub.asked.append(f"{self.command} {path}")
        for name, repo in self.hub.repos.items():
            if path.startswith(f"api/models/{name}/"):
                self._api(name, repo, path.removeprefix(f"api/models/{name}/"))
                return
            if path.startswith(f"{name}/resolve/"):
                self._resolve(repo, path.removeprefix(f"{name}/resolve/"), with_body=with_body)
                return
        self._refuse(401, "RepoNotFound")

    def _api(self, name: str, repo: Repo, rest: str) -> None:
        kind, _, revision = rest.partition("/")
        if repo.private:
            self._refuse(401, "")
        elif revision not in (*repo.branches, repo.commit):
            self._refuse(404, "RevisionNotFound")
        elif kind == "revision":
            siblings = [{"rfilename": path} for path in repo.files]
            self._json({"id": name, "sha": repo.commit, "siblings": siblings})
        else:
            self._json([_tree_entry(path, content) for path, content in repo.files.items()])

    def _resolve(self, repo: Repo, rest: str, *, with_body: bool) -> None:
        _, _, path = rest.partition("/")
        if repo.gated:
            self._refuse(403, "GatedRepo")
            return
        content = repo.files[path]
        start = 0
        if wanted := self.headers.get("Range"):
            self.hub.ranges.append(wanted)
            start = int(wanted.removeprefix("bytes=").split("-")[0])
        self.send_response(206 if wanted else 200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", repo.commit)
        self.send_header("Content-Length", str(len(content) - start))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if with_body:
            body = content[start:]
            if self.hub.cut_at and len(content) > self.hub.cut_at:  # never a byte beyond
                body, self.close_connection = content[start : self.hub.cut_at], True
            self.wfile.write(body)

    def _json(self, record: object) -> None:
        body = json.dumps(record).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _tree_entry(path: str, content: bytes) -> dict[str, object]:
    sha = hashlib.sha256(content).hexdigest()
    entry: dict[str, object] = {"type": "file", "path": path, "size": len(content), "oid": sha[:40]}
    if path.endswith((".pt", ".jit", ".safetensors")):
        entry["lfs"] = {"oid": sha, "size": len(content), "pointerSize": 134}
    return entry
