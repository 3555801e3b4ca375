"""Where models lie: plain folders, folders named by their repository, and download caches."""

from collections.abc import Iterator, Sequence
from pathlib import Path


def find_model(
    roots: Sequence[Path], repo_id: str, *, marker: str = "config.json", also: Sequence[str] = ()
) -> Path | None:
    """The folder of a model below one of several folders, or None.

    Looked for are `<root>/<owner>/<name>`, `<root>/<name>`, names in `also`, and the cache layout
    `<root>/models--<owner>--<name>/snapshots/<revision>`, which the published guardrail code makes.

    Args:
        roots: Folders to look in, the first one first.
        repo_id: `<owner>/<name>`.
        marker: A file that the model's folder holds.
        also: Other names that its folder may have.
    """
    for root in roots:
        for folder in _places(root, repo_id, also):
            if (folder / marker).is_file():
                return folder
    return None


def _places(root: Path, repo_id: str, also: Sequence[str]) -> Iterator[Path]:
    yield from (root / name for name in (repo_id, repo_id.rpartition("/")[2], *also))
    cache = root / ("models--" + repo_id.replace("/", "--"))
    pinned = cache / "refs" / "main"
    if pinned.is_file():
        yield cache / "snapshots" / pinned.read_text(encoding="utf-8").strip()
    if (cache / "snapshots").is_dir():
        yield from sorted((cache / "snapshots").iterdir())
