"""A hub on this machine that speaks what huggingface_hub asks of one: info, tree, resolve with ranges, commits."""

import base64
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
    tags: dict[str, str] = field(default_factory=dict)
    others: dict[str, "Repo"] = field(default_factory=dict)  # other branches
    messages: list[str] = field(default_factory=list)

    def at(self, revision: str) -> "Repo":
        """The files and commit of a branch."""
        return self.others.get(revision, self)

    def commit_lines(self, lines: list[dict], large: dict[str, bytes]) -> None:
        """What a commit says, one JSON object a line."""
        for line in lines:
            value = line["value"]
            match line["key"]:
                case "header":
                    self.messages.append(value["summary"])
                case "file":
                    self.files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    self.files[value["path"]] = large[value["oid"]]
                case "deletedFile":
                    del self.files[value["path"]]
        content = b"".join(path.encode() + self.files[path] for path in sorted(self.files))
        self.commit = hashlib.sha1(content + str(len(self.messages)).encode()).hexdigest()


@dataclass
class Hub:
    """What the server holds, and what it was asked."""

    repos: dict[str, Repo]
    cut_at: int = 0
    url: str = ""
    ranges: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    large: dict[str, bytes] = field(default_factory=dict)  # what was uploaded, by SHA-256
    write_token: str = "hf_write"


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

    def do_POST(self):
        path = unquote(urlsplit(self.path).path).strip("/")
        self.hub.asked.append(f"POST {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        lines = [json.loads(line) for line in body.splitlines() if line]
        if self.headers.get("Authorization") != f"Bearer {self.hub.write_token}":
            self._refuse(403, "")
        elif path == "api/repos/create":
            self._create(lines[0])
        elif path == "api/validate-yaml":
            self._json({"warnings": [], "errors": []})
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._json({"objects": [self._upload_place(one) for one in lines[0]["objects"]]})
        else:
            owner, name, kind, revision = path.removeprefix("api/models/").split("/", 3)
            self._change(f"{owner}/{name}", kind, revision, lines)

    def do_PUT(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.hub.large[self.path.rsplit("/", 1)[1]] = content
        self._json({})

    def _create(self, asked: dict) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        status = 409 if name in self.hub.repos else 200
        self.hub.repos.setdefault(name, Repo({}))
        self._json({"url": f"{self.hub.url}/{name}"}, status)

    def _upload_place(self, asked: dict) -> dict[str, object]:
        place = {"upload": {"href": f"{self.hub.url}/large/{asked['oid']}"}}
        return {**asked, **({} if asked["oid"] in self.hub.large else {"actions": place})}

    def _change(self, name: str, kind: str, revision: str, lines: list[dict]) -> None:
        repo = self.hub.repos[name]
        branch = repo.at(revision)
        if kind == "preupload":
            self._json({"files": [_upload_mode(branch, one["path"]) for one in lines[0]["files"]]})
        elif kind == "commit":
            branch.commit_lines(lines, self.hub.large)
            url = f"{self.hub.url}/{name}/commit/{branch.commit}"
            self._json({"commitUrl": url, "commitOid": branch.commit})
        elif kind == "branch" and revision not in repo.branches:
            repo.others[revision] = Repo(dict(repo.files), repo.commit)
            repo.branches = (*repo.branches, revision)
            self._json({})
        elif kind == "tag" and lines[0]["tag"] not in repo.tags:
            repo.tags[lines[0]["tag"]] = revision
            self._json({})
        else:
            self._refuse(409, "")

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
            siblings = [{"rfilename": path} for path in repo.at(revision).files]
            self._json({"id": name, "sha": repo.at(revision).commit, "siblings": siblings})
        else:
            held = repo.at(revision).files
            self._json([_tree_entry(path, content) for path, content in held.items()])

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

    def _json(self, record: object, status: int = 200) -> None:
        body = json.dumps(record).encode()
        self.send_response(status)
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


def _upload_mode(repo: Repo, path: str) -> dict[str, object]:
    """How a file is sent: weights beside the commit; with its hash if it stands already."""
    is_large, content = path.endswith(".safetensors"), repo.files.get(path)
    oid = None
    if content is not None:
        blob = b"blob %d\0" % len(content) + content
        oid = (hashlib.sha256(content) if is_large else hashlib.sha1(blob)).hexdigest()
    mode = "lfs" if is_large else "regular"
    return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid}


def _tree_entry(path: str, content: bytes) -> dict[str, object]:
    sha = hashlib.sha256(content).hexdigest()
    entry: dict[str, object] = {"type": "file", "path": path, "size": len(content), "oid": sha[:40]}
    if path.endswith((".pt", ".jit", ".safetensors")):
        entry["lfs"] = {"oid": sha, "size": len(content), "pointerSize": 134}
    return entry
