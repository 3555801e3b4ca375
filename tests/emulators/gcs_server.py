"""Google Cloud Storage for tests: its JSON and XML APIs over one state, with preconditions.

Serves what obstore, Lance, pyarrow and google-cloud-storage ask for: ranged reads, simple, multipart
and resumable uploads, compose, rewrite, listing in pages, bucket metadata and policies. Every change
is a line of a journal and every content a file, so what was acknowledged is there after kill -9;
uploads that were not finished are not. No versions, no ACLs, no encryption. Run as a program.

References: https://cloud.google.com/storage/docs/json_api/v1 and .../docs/xml-api/reference-methods
"""

import argparse
import base64
import bisect
import hashlib
import json
import re
import time
from dataclasses import asdict, dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.sax.saxutils import escape

import google_crc32c
from aiohttp import web

JSON_PATH = re.compile(
    r"^(?:/(upload|download|resumable/upload))?/storage/v1/b(?:/([^/]+))?(?:/(o|iam|storageLayout)(?:/(.*))?)?$"
)
REASONS = {
    404: "notFound",
    409: "conflict",
    412: "conditionNotMet",
    400: "invalid",
    501: "notImplemented",
}
MAX_PAGE = 1000


class RefusedError(Exception):
    """An answer other than success, in the API's own words."""

    def __init__(self, status: int, code: str, message: str = "") -> None:
        self.status, self.code, self.message = status, code, message or code
        super().__init__(self.message)


@dataclass
class Content:
    """One object; its bytes are a file named by its generation."""

    name: str
    generation: int
    size: int
    md5: str
    crc32c: str
    content_type: str
    updated: float
    metadata: dict[str, str] = field(default_factory=dict)
    metageneration: int = 1


@dataclass
class Bucket:
    """Objects by name, the names in order, and what else the bucket says of itself."""

    resource: dict[str, Any]
    policy: dict[str, Any] = field(default_factory=lambda: {"bindings": []})
    objects: dict[str, Content] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)

    def put(self, content: Content) -> None:
        if content.name not in self.objects:
            bisect.insort(self.names, content.name)
        self.objects[content.name] = content

    def drop(self, name: str) -> None:
        del self.objects[name]
        del self.names[bisect.bisect_left(self.names, name)]


class State:
    """All buckets, on disk and in memory."""

    def __init__(self, folder: Path) -> None:
        self.buckets: dict[str, Bucket] = {}
        self.uploads: dict[str, dict[str, Any]] = {}
        self._contents = folder / "contents"
        self._contents.mkdir(parents=True, exist_ok=True)
        self._generation = time.time_ns() // 1000
        self._replay(folder / "journal.jsonl")
        self._journal = (folder / "journal.jsonl").open("ab", buffering=0)

    def next_generation(self) -> int:
        self._generation = max(self._generation + 1, time.time_ns() // 1000)
        return self._generation

    def bucket(self, name: str) -> Bucket:
        if name not in self.buckets:
            raise RefusedError(404, "NoSuchBucket", "The specified bucket does not exist.")
        return self.buckets[name]

    def content(self, bucket: str, name: str) -> Content:
        found = self.bucket(bucket).objects.get(name)
        if found is None:
            raise RefusedError(404, "NoSuchKey", f"No such object: {bucket}/{name}")
        return found

    def read(self, content: Content) -> bytes:
        return (self._contents / str(content.generation)).read_bytes()

    def write(
        self, bucket: str, name: str, data: bytes, *, wanted: str | None = None, **about: Any
    ) -> Content:
        """Write an object if what stands under its name is what the caller expects."""
        self.check(bucket, name, wanted)
        content = Content(
            name=name,
            generation=self.next_generation(),
            size=len(data),
            md5=base64.b64encode(hashlib.md5(data).digest()).decode(),
            crc32c=base64.b64encode(google_crc32c.Checksum(data).digest()).decode(),
            content_type=about.get("content_type") or "application/octet-stream",
            updated=time.time(),
            metadata=about.get("metadata") or {},
        )
        (self._contents / str(content.generation)).write_bytes(data)
        self.commit({"put": asdict(content), "bucket": bucket})
        return content

    def delete(self, bucket: str, name: str, *, wanted: str | None = None) -> None:
        content = self.content(bucket, name)
        self.check(bucket, name, wanted)
        self.commit({"delete": name, "bucket": bucket})
        (self._contents / str(content.generation)).unlink(missing_ok=True)

    def check(self, bucket: str, name: str, wanted: str | None) -> None:
        """Refuse if the generation is not the wanted one; 0 is none, None is any."""
        standing = self.bucket(bucket).objects.get(name)
        if wanted is not None and int(wanted) != (standing.generation if standing else 0):
            raise RefusedError(
                412,
                "PreconditionFailed",
                "At least one of the pre-conditions you specified did not hold.",
            )

    def commit(self, change: dict[str, Any]) -> None:
        self._journal.write(json.dumps(change).encode() + b"\n")
        self._apply(change)

    def _apply(self, change: dict[str, Any]) -> None:
        name = change["bucket"]
        if "put" in change:
            self.buckets[name].put(Content(**change["put"]))
        elif "delete" in change:
            self.buckets[name].drop(change["delete"])
        elif "policy" in change:
            self.buckets[name].policy = change["policy"]
        elif change.get("resource") is None:
            del self.buckets[name]
        elif name in self.buckets:
            self.buckets[name].resource = change["resource"]
        else:
            self.buckets[name] = Bucket(change["resource"])

    def _replay(self, path: Path) -> None:
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]  # the last line may be half a line
        if len(whole) < len(content):
            path.write_bytes(whole)
        for line in whole.splitlines():
            self._apply(json.loads(line))


@dataclass(frozen=True)
class Page:
    """A part of a listing."""

    contents: list[Content]
    prefixes: list[str]
    next_after: str | None


def page_of(
    bucket: Bucket, asked: dict[str, str], *, after: str, first: str, last: str, most: int
) -> Page:
    """Up to `most` names and common prefixes behind `after`, in order."""
    prefix, delimiter = asked.get("prefix", ""), asked.get("delimiter", "")
    contents: list[Content] = []
    prefixes: list[str] = []
    reached = after
    start = max(
        bisect.bisect_left(bucket.names, max(prefix, first)),
        bisect.bisect_right(bucket.names, after),
    )
    for name in bucket.names[start:]:
        if not name.startswith(prefix) or (last and name >= last):
            break
        cut = name.find(delimiter, len(prefix)) if delimiter else -1
        common = name[: cut + len(delimiter)] if cut >= 0 else None
        if common is not None and (common == after or common in prefixes[-1:]):
            continue
        if len(contents) + len(prefixes) == most:
            return Page(contents, prefixes, reached)
        if common is None:
            contents.append(bucket.objects[name])
        else:
            prefixes.append(common)
        reached = common or name
    return Page(contents, prefixes, None)


class Server:
    """Both APIs on one state; every handler changes the state without waiting, so it is atomic."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def answer(self, request: web.Request) -> web.Response:
        """Any request."""
        path = request.raw_path.split("?")[0]
        found = JSON_PATH.match(path)
        body = await request.read()
        try:
            if found:
                return self._json(request, body, *found.groups())
            bucket, _, name = unquote(path).lstrip("/").partition("/")
            return self._xml(request, body, bucket, name)
        except RefusedError as refused:
            return _json_refusal(refused) if found else _xml_refusal(refused)

    # The XML API

    def _xml(self, request: web.Request, body: bytes, bucket: str, name: str) -> web.Response:
        self._state.bucket(bucket)
        if not name:
            return self._xml_list(request, bucket)
        if "uploads" in request.query or "uploadId" in request.query:
            return self._xml_upload(request, body, bucket, name)
        wanted = request.headers.get("x-goog-if-generation-match")
        if request.method in ("GET", "HEAD"):
            return self._media(request, bucket, name)
        if request.method == "DELETE":
            self._state.delete(bucket, name, wanted=wanted)
            return web.Response(status=204)
        if request.method != "PUT":
            raise RefusedError(501, "NotImplemented")
        source = request.headers.get("x-goog-copy-source")
        if source:
            body = self._state.read(self._state.content(*_bucket_and_name(source)))
        about = {
            "content_type": request.headers.get("Content-Type"),
            "metadata": _metadata(request),
        }
        content = self._state.write(bucket, name, body, wanted=wanted, **about)
        return _xml_answer(_copied(content) if source else "", _headers(content))

    def _xml_list(self, request: web.Request, bucket: str) -> web.Response:
        if request.method == "HEAD":
            return web.Response()
        asked = dict(request.query)
        after = asked.get("continuation-token") or asked.get("start-after", "")
        most = min(int(asked.get("max-keys", MAX_PAGE)), MAX_PAGE)
        page = page_of(self._state.bucket(bucket), asked, after=after, first="", last="", most=most)
        return _xml_answer(_listing(bucket, page))

    def _xml_upload(
        self, request: web.Request, body: bytes, bucket: str, name: str
    ) -> web.Response:
        about = f"<Bucket>{bucket}</Bucket><Key>{escape(name)}</Key>"
        if "uploads" in request.query:
            upload = f"x{self._state.next_generation()}"
            self._state.uploads[upload] = {}
            opened = f"{about}<UploadId>{upload}</UploadId>"
            return _xml_answer(
                f"<InitiateMultipartUploadResult>{opened}</InitiateMultipartUploadResult>"
            )
        parts = self._state.uploads.get(request.query["uploadId"])
        if parts is None:
            raise RefusedError(404, "NoSuchUpload")
        if request.method == "PUT":
            parts[request.query["partNumber"]] = body
            return web.Response(headers={"ETag": f'"{hashlib.md5(body).hexdigest()}"'})
        if request.method == "POST":
            whole = b"".join(
                parts[number] for number in re.findall(r"<PartNumber>\s*(\d+)", body.decode())
            )
            wanted = request.headers.get("x-goog-if-generation-match")
            content = self._state.write(bucket, name, whole, wanted=wanted)
            done = f'{about}<ETag>"{content.generation}"</ETag>'
            answer = f"<CompleteMultipartUploadResult>{done}</CompleteMultipartUploadResult>"
        del self._state.uploads[request.query["uploadId"]]
        if request.method == "DELETE":
            return web.Response(status=204)
        return _xml_answer(answer, _headers(content))

    def _media(self, request: web.Request, bucket: str, name: str) -> web.Response:
        content = self._state.content(bucket, name)
        etag = request.headers.get("If-Match", "*").strip('"')
        if etag not in ("*", str(content.generation)):
            raise RefusedError(412, "PreconditionFailed")
        headers = {**_headers(content), "Content-Type": content.content_type}
        if request.method == "HEAD":
            return web.Response(headers={**headers, "Content-Length": str(content.size)})
        data = self._state.read(content)
        asked = re.match(r"bytes=(\d*)-(\d*)$", request.headers.get("Range", ""))
        if not asked:
            return web.Response(body=data, headers=headers)
        first = int(asked[1]) if asked[1] else max(0, content.size - int(asked[2]))
        last = min(int(asked[2]), content.size - 1) if asked[1] and asked[2] else content.size - 1
        if first >= content.size:
            raise RefusedError(416, "InvalidRange", "The requested range cannot be satisfied.")
        headers["Content-Range"] = f"bytes {first}-{last}/{content.size}"
        return web.Response(status=206, body=data[first : last + 1], headers=headers)

    # The JSON API

    def _json(
        self,
        request: web.Request,
        body: bytes,
        way: str | None,
        bucket: str | None,
        part: str | None,
        rest: str | None,
    ) -> web.Response:
        if bucket is None:
            return self._buckets(request, body)
        bucket = unquote(bucket)
        if part is None:
            return self._bucket(request, body, bucket)
        self._state.bucket(bucket)
        if part == "storageLayout":
            flat = {"hierarchicalNamespace": {"enabled": False}, "locationType": "region"}
            return web.json_response({"kind": "storage#storageLayout", "bucket": bucket, **flat})
        if part == "iam":
            return self._policy(request, body, bucket)
        if way and "upload" in way:
            return self._upload(request, body, bucket)
        if not rest:
            return self._json_list(request, bucket)
        return self._object(request, body, bucket, rest, way)

    def _buckets(self, request: web.Request, body: bytes) -> web.Response:
        if request.method == "GET":
            found = [bucket.resource for bucket in self._state.buckets.values()]
            return web.json_response({"kind": "storage#buckets", "items": found})
        asked = json.loads(body)
        name = asked["name"]
        if name in self._state.buckets:
            raise RefusedError(
                409, "conflict", "Your previous request to create the named bucket succeeded"
            )
        fixed = {"kind": "storage#bucket", "id": name, "metageneration": "1", "location": "US"}
        self._state.commit({"resource": {**asked, **fixed}, "bucket": name})
        return web.json_response(self._state.bucket(name).resource)

    def _bucket(self, request: web.Request, body: bytes, name: str) -> web.Response:
        resource = self._state.bucket(name).resource
        if request.method == "DELETE":
            if self._state.bucket(name).objects:
                raise RefusedError(409, "conflict", "The bucket you tried to delete is not empty.")
            self._state.commit({"resource": None, "bucket": name})
            return web.Response(status=204)
        if request.method in ("PATCH", "PUT"):
            resource = {**resource, **json.loads(body)}
            self._state.commit({"resource": resource, "bucket": name})
        return web.json_response(resource)

    def _policy(self, request: web.Request, body: bytes, bucket: str) -> web.Response:
        if request.method == "PUT":
            self._state.commit({"policy": json.loads(body), "bucket": bucket})
        policy = self._state.bucket(bucket).policy
        return web.json_response({"kind": "storage#policy", "etag": "CAE=", "version": 1, **policy})

    def _json_list(self, request: web.Request, bucket: str) -> web.Response:
        asked = dict(request.query)
        page = page_of(
            self._state.bucket(bucket),
            asked,
            after=asked.get("pageToken", ""),
            first=asked.get("startOffset", ""),
            last=asked.get("endOffset", ""),
            most=min(int(asked.get("maxResults", MAX_PAGE)), MAX_PAGE),
        )
        items = [_resource(bucket, content) for content in page.contents]
        answer = {"kind": "storage#objects", "items": items, "prefixes": page.prefixes}
        if page.next_after is not None:
            answer["nextPageToken"] = page.next_after
        return web.json_response(answer)

    def _object(
        self, request: web.Request, body: bytes, bucket: str, rest: str, way: str | None
    ) -> web.Response:
        wanted = request.query.get("ifGenerationMatch")
        if request.method == "POST":
            return self._combined(body, bucket, rest, wanted)
        name = unquote(rest)
        content = self._state.content(bucket, name)
        if request.method == "DELETE":
            self._state.delete(bucket, name, wanted=wanted)
            return web.Response(status=204)
        if request.method == "GET":
            if way == "download" or request.query.get("alt") == "media":
                return self._media(request, bucket, name)
            return web.json_response(_resource(bucket, content))
        self._state.check(bucket, name, wanted)
        content.metadata = json.loads(body).get("metadata") or content.metadata
        content.metageneration += 1
        self._state.commit({"put": asdict(content), "bucket": bucket})
        return web.json_response(_resource(bucket, content))

    def _combined(self, body: bytes, bucket: str, rest: str, wanted: str | None) -> web.Response:
        """Objects that are made of others: compose, copy, rewrite."""
        if rest.endswith("/compose"):
            sources = [(bucket, source["name"]) for source in json.loads(body)["sourceObjects"]]
            target, name = bucket, unquote(rest.removesuffix("/compose"))
        else:
            found = re.match(r"(.*)/(?:rewriteTo|copyTo)/b/([^/]+)/o/(.*)$", rest)
            if not found:
                raise RefusedError(501, "notImplemented")
            source, target, name = map(unquote, found.groups())
            sources = [(bucket, source)]
        data = b"".join(self._state.read(self._state.content(*source)) for source in sources)
        content = self._state.write(target, name, data, wanted=wanted)
        resource = _resource(target, content)
        if "/rewriteTo/" not in rest:
            return web.json_response(resource)
        sizes = {"objectSize": str(content.size), "totalBytesRewritten": str(content.size)}
        return web.json_response(
            {"kind": "storage#rewriteResponse", "done": True, "resource": resource, **sizes}
        )

    def _upload(self, request: web.Request, body: bytes, bucket: str) -> web.Response:
        asked, kind = request.query, request.query.get("uploadType", "multipart")
        if kind == "resumable":
            return self._resumable(request, body, bucket)
        about: dict[str, Any] = {}
        if kind == "media":
            about, data = {"contentType": request.headers.get("Content-Type")}, body
        else:
            about, data = _related(request.headers["Content-Type"], body)
        content = self._state.write(
            bucket,
            about.get("name") or asked["name"],
            data,
            wanted=asked.get("ifGenerationMatch"),
            content_type=about.get("contentType"),
            metadata=about.get("metadata"),
        )
        return web.json_response(_resource(bucket, content))

    def _resumable(self, request: web.Request, body: bytes, bucket: str) -> web.Response:
        asked = request.query
        if "upload_id" not in asked:
            upload, about = f"r{self._state.next_generation()}", json.loads(body or b"{}")
            wanted = asked.get("ifGenerationMatch")
            name = asked.get("name") or about.get("name")
            self._state.uploads[upload] = {
                "about": about,
                "name": name,
                "wanted": wanted,
                "data": b"",
            }
            place = f"/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={upload}"
            return web.Response(
                headers={
                    "Location": f"http://{request.host}{place}",
                    "X-GUploader-UploadID": upload,
                }
            )
        session = self._state.uploads.get(asked["upload_id"])
        if session is None:
            raise RefusedError(404, "notFound", "No such upload")
        if request.method == "DELETE":
            del self._state.uploads[asked["upload_id"]]
            return web.Response(status=499)
        whole = _received(session, body, request.headers.get("Content-Range", ""))
        if not whole:
            held = {"Range": f"bytes=0-{len(session['data']) - 1}"} if session["data"] else {}
            return web.Response(status=308, headers=held)
        about = session["about"]
        content = self._state.write(
            bucket,
            session["name"],
            session["data"],
            wanted=session["wanted"],
            content_type=about.get("contentType"),
            metadata=about.get("metadata"),
        )
        del self._state.uploads[asked["upload_id"]]
        return web.json_response(_resource(bucket, content))


def _received(session: dict[str, Any], body: bytes, content_range: str) -> bool:
    """Take in a chunk; whether it was the last."""
    placed = re.match(r"bytes (\d+)-(\d+)/(\d+|\*)", content_range)
    if placed:
        session["data"] = session["data"][: int(placed[1])] + body
    elif not content_range:
        session["data"] = body
    total = content_range.rpartition("/")[2] or str(len(session["data"]))
    return total != "*" and int(total) <= len(session["data"])


def _related(content_type: str, body: bytes) -> tuple[dict[str, Any], bytes]:
    """The two parts of a multipart/related upload: the resource and the content."""
    found = re.search(r"boundary=([\"']?)([^\"';]+)\1", content_type)
    if not found:
        raise RefusedError(400, "invalid", "no boundary")
    boundary = b"--" + found[2].encode()
    inside = body[body.index(boundary) + len(boundary) : body.rindex(boundary + b"--")]
    resource, _, data = inside.partition(boundary)
    return json.loads(_without_headers(resource)), _without_headers(data)


def _without_headers(part: bytes) -> bytes:
    blank = re.search(rb"\r?\n\r?\n", part)
    content = part[blank.end() :] if blank else part
    return content.removesuffix(b"\n").removesuffix(b"\r")


def _bucket_and_name(source: str) -> tuple[str, str]:
    bucket, _, name = unquote(source).lstrip("/").partition("/")
    return bucket, name


def _metadata(request: web.Request) -> dict[str, str]:
    mark = "x-goog-meta-"
    return {k[len(mark) :]: v for k, v in request.headers.items() if k.lower().startswith(mark)}


def _moment(seconds: float) -> str:
    return (
        time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        + f".{int(seconds * 1000) % 1000:03d}Z"
    )


def _headers(content: Content) -> dict[str, str]:
    return {
        "ETag": f'"{content.generation}"',
        "x-goog-generation": str(content.generation),
        "x-goog-metageneration": str(content.metageneration),
        "x-goog-stored-content-length": str(content.size),
        "x-goog-stored-content-encoding": "identity",
        "x-goog-hash": f"crc32c={content.crc32c},md5={content.md5}",
        "Last-Modified": formatdate(content.updated, usegmt=True),
        "Accept-Ranges": "bytes",
    }


def _resource(bucket: str, content: Content) -> dict[str, Any]:
    return {
        "kind": "storage#object",
        "id": f"{bucket}/{content.name}/{content.generation}",
        "name": content.name,
        "bucket": bucket,
        "generation": str(content.generation),
        "metageneration": str(content.metageneration),
        "size": str(content.size),
        "contentType": content.content_type,
        "md5Hash": content.md5,
        "crc32c": content.crc32c,
        "etag": str(content.generation),
        "timeCreated": _moment(content.updated),
        "updated": _moment(content.updated),
        "storageClass": "STANDARD",
        "metadata": content.metadata,
    }


def _listing(bucket: str, page: Page) -> str:
    contents = "".join(
        f"<Contents><Key>{escape(c.name)}</Key><LastModified>{_moment(c.updated)}</LastModified>"
        f'<ETag>"{c.generation}"</ETag><Generation>{c.generation}</Generation><Size>{c.size}</Size></Contents>'
        for c in page.contents
    )
    prefixes = "".join(
        f"<CommonPrefixes><Prefix>{escape(p)}</Prefix></CommonPrefixes>" for p in page.prefixes
    )
    more = page.next_after is not None
    token = f"<NextContinuationToken>{escape(page.next_after or '')}</NextContinuationToken>"
    truncated = f"<IsTruncated>{str(more).lower()}</IsTruncated>{token if more else ''}"
    return (
        f"<ListBucketResult><Name>{bucket}</Name>{contents}{prefixes}{truncated}</ListBucketResult>"
    )


def _copied(content: Content) -> str:
    moment = f"<LastModified>{_moment(content.updated)}</LastModified>"
    return f'<CopyObjectResult><ETag>"{content.generation}"</ETag>{moment}</CopyObjectResult>'


def _xml_answer(
    text: str, headers: dict[str, str] | None = None, status: int = 200
) -> web.Response:
    whole = f'<?xml version="1.0" encoding="UTF-8"?>{text}' if text else ""
    return web.Response(status=status, text=whole, headers=headers, content_type="application/xml")


def _xml_refusal(refused: RefusedError) -> web.Response:
    words = (
        f"<Error><Code>{refused.code}</Code><Message>{escape(refused.message)}</Message></Error>"
    )
    return _xml_answer(words, status=refused.status)


def _json_refusal(refused: RefusedError) -> web.Response:
    reason = REASONS.get(refused.status, "invalid")
    detail = {"message": refused.message, "domain": "global", "reason": reason}
    error = {"code": refused.status, "message": refused.message, "errors": [detail]}
    return web.json_response({"error": error}, status=refused.status)


def main() -> None:
    """Serve on loopback until killed."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("--folder", type=Path, required=True)
    asked = arguments.parse_args()
    application = web.Application(client_max_size=1 << 33)
    application.router.add_route("*", "/{path:.*}", Server(State(asked.folder)).answer)
    web.run_app(application, host="127.0.0.1", port=asked.port, print=None, access_log=None)


if __name__ == "__main__":
    main()
