"""One file of the hub at a time, going on byte for byte where an earlier run stopped.

huggingface_hub 2.4 throws a half file away when a download is stopped
(https://github.com/huggingface/huggingface_hub/pull/4228), which for a checkpoint in one file of
28 GB is all of it. Here half files are kept in `.partial/`, under the commit's own content hash, and
checked against it when they are whole.
"""

import fcntl
import hashlib
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from worldloop.errors import StoreError

PARTIAL = ".partial"
_CHUNK_BYTES = 1 << 24


@dataclass(frozen=True)
class RemoteFile:
    """A file of one commit.

    Attributes:
        path: In the repository.
        size_bytes: Its length.
        sha256: Of its content; empty where the hub does not say.
    """

    path: str
    size_bytes: int
    sha256: str = ""


def is_whole(folder: Path, file: RemoteFile) -> bool:
    """Whether a file stands in its full length."""
    path = folder / file.path
    return path.is_file() and path.stat().st_size == file.size_bytes


def fetch_files(
    files: Mapping[str, RemoteFile],
    folder: Path,
    *,
    repo_id: str,
    commit: str,
    endpoint: str = "",
    token: str = "",
    max_workers: int = 4,
) -> None:
    """Bring the files that are not whole yet; a file appears whole or not at all.

    Args:
        files: By their path in the repository.
        folder: Where to.
        repo_id: Repository on the hub.
        commit: Its commit.
        endpoint: Address of the hub; empty takes huggingface_hub's.
        token: Access token; empty takes what huggingface_hub finds.
        max_workers: Files that come at the same time.

    Raises:
        StoreError: If a file is not what its commit says, or another process is at the same folder.
        HfHubHTTPError: Of huggingface_hub, if the hub refuses.
    """
    missing = [file for file in files.values() if not is_whole(folder, file)]
    partial = folder / PARTIAL
    partial.mkdir(parents=True, exist_ok=True)
    with _alone_in(partial), ThreadPoolExecutor(max_workers) as pool:
        tasks = [
            pool.submit(_fetch, file, folder, repo_id, commit, endpoint or None, token or None)
            for file in missing
        ]
        try:
            for task in tasks:
                task.result()
        finally:
            pool.shutdown(cancel_futures=True)
    shutil.rmtree(partial)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _fetch(
    file: RemoteFile,
    folder: Path,
    repo_id: str,
    commit: str,
    endpoint: str | None,
    token: str | None,
) -> None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils._headers import build_hf_headers

    url = hf_hub_url(repo_id, file.path, revision=commit, endpoint=endpoint)
    where = get_hf_file_metadata(url, token=token, endpoint=endpoint).location
    headers = build_hf_headers(token=token)
    if urlsplit(where).netloc != urlsplit(url).netloc:  # a signed address; the token is not for it
        headers.pop("authorization", None)
    half = folder / PARTIAL / f"{file.path.replace('/', '--')}.{(file.sha256 or commit)[:16]}"
    if half.exists() and half.stat().st_size > file.size_bytes:
        half.unlink()
    with half.open("ab") as sink:
        http_get(
            where,
            sink,
            resume_size=sink.tell(),
            headers=headers,
            expected_size=file.size_bytes,
            displayed_filename=file.path,
        )
    if file.sha256 and sha256_of(half) != file.sha256:
        half.unlink()
        raise StoreError(
            f"{file.path} of {repo_id} came with another content than commit {commit[:12]} has. Run the same "
            "command again; if it happens twice, a proxy in between changes files."
        )
    target = folder / file.path
    target.parent.mkdir(parents=True, exist_ok=True)
    half.replace(target)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Let no second process write into the same half files."""
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StoreError(
                f"Another process is downloading to {folder.parent}. Wait for it; both would write the same files."
            ) from error
        yield
