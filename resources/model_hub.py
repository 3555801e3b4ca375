"""Where model weights come from: the Hugging Face hub, by pinned revision, into one folder.

```
<checkpoint_dir>/
  models.lock.json            commit, layout and files of every folder that was downloaded
  Cosmos-1.0-Diffusion-7B-Text2World/    model.pt, config.json, or a diffusers folder
  Cosmos-1.0-Tokenizer-CV8x8x8/
  google-t5/t5-11b/  ...
```

A branch is resolved to a commit once; the lock keeps it, so that a re-run completes the same files.
A download that was stopped goes on where it was. Tokens are found as huggingface_hub finds them.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import dagster as dg

from resources.hub_files import RemoteFile, fetch_files, is_whole, sha256_of
from worldloop.cosmos.companions import COMPANIONS, Companion
from worldloop.cosmos.models import MODELS, Layout, Model
from worldloop.errors import MalformedRecordError, StoreError, UnknownKeyError

LOCK_NAME = "models.lock.json"
SPARE_GB = 2.0  # left free after a download


@dataclass(frozen=True)
class Source:
    """What is to be downloaded into one folder.

    Attributes:
        name: Folder in the checkpoint folder.
        repo_id: Repository on the hub.
        revision: Commit or branch.
        layout: Which of its layouts; companions have only one.
        gated: Whether its page asked to accept a licence, as far as is known.
        licence: Name of its licence.
        files: Patterns of the files that are taken; empty takes all.
        ignore: Patterns of files that are not.
        size_gb: About how much disk it takes.
    """

    name: str
    repo_id: str
    revision: str
    layout: str
    gated: bool
    licence: str
    files: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    size_gb: float = 0.0

    @property
    def page(self) -> str:
        """Where its licence is accepted."""
        return f"https://huggingface.co/{self.repo_id}"

    def takes(self, path: str) -> bool:
        """Whether a file of the repository is downloaded."""
        wanted = not self.files or any(fnmatch(path, pattern) for pattern in self.files)
        return wanted and not any(fnmatch(path, pattern) for pattern in self.ignore)


@dataclass(frozen=True)
class Fetched:
    """A folder that stands.

    Attributes:
        name: Folder in the checkpoint folder.
        commit: Its revision.
        num_files: Files in it.
        size_bytes: Of all of them.
        folder: Where it is.
    """

    name: str
    commit: str
    num_files: int
    size_bytes: int
    folder: Path


def source(name: str, *, layout: Layout | None = None) -> Source:
    """What a model or companion folder is downloaded from.

    Args:
        name: A model or companion.
        layout: Of a model; None takes its first one.

    Raises:
        UnknownKeyError: If there is no such name.
        MalformedRecordError: If the model is tiny, or its repository has no such layout.
    """
    if name in COMPANIONS:
        return _of_companion(COMPANIONS[name])
    if name not in MODELS:
        raise UnknownKeyError("model to download", name, [*MODELS, *COMPANIONS])
    model = MODELS[name]
    if model.tiny:
        raise MalformedRecordError(
            "model to download", name, "a published model", f"Run: worldloop models tiny {name}"
        )
    chosen = layout or model.layouts[0]
    if chosen not in model.layouts:
        raise MalformedRecordError(
            f"layout of {name}",
            chosen,
            f"one of {', '.join(model.layouts)}",
            "Leave --layout out.",
        )
    return _of_model(model, chosen)


def needed_folders(
    models: Sequence[Model],
    *,
    layout: Layout | None = None,
    guardrail: bool = True,
    upsampler: bool = True,
) -> tuple[str, ...]:
    """Folders that models need, themselves first, each once.

    Args:
        models: The models.
        layout: Asked layout; a diffusers folder brings its text encoder and autoencoder along.
        guardrail: Whether guard folders are wanted.
        upsampler: Whether prompt upsamplers are wanted.
    """
    names: dict[str, None] = dict.fromkeys(model.name for model in models)
    for model in models:
        if (layout or model.layouts[0]) == "original":
            names.update(dict.fromkeys(model.needs))
        names.update(dict.fromkeys(model.guards if guardrail else ()))
        names.update(dict.fromkeys(model.upsamplers if upsampler else ()))
    return tuple(names)


class ModelHub(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Downloads and checks model folders.

    Attributes:
        checkpoint_dir: Folder of all model folders.
        endpoint: Address of the hub; empty takes the public one, or what huggingface_hub was told.
        token: Access token; empty takes what huggingface_hub finds (its login or its environment).
        max_workers: Files downloaded at the same time.
    """

    checkpoint_dir: str
    endpoint: str = ""
    token: str = ""
    max_workers: int = 4

    @property
    def root(self) -> Path:
        """Folder of all model folders."""
        return Path(self.checkpoint_dir)

    def locked(self) -> Mapping[str, Any]:
        """The lock: for each folder its repo_id, commit, layout and file sizes.

        Raises:
            MalformedRecordError: If the file is not JSON.
        """
        path = self.root / LOCK_NAME
        if not path.exists():
            return {}
        try:
            lock = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise MalformedRecordError(
                str(path), str(error), "JSON", "Delete it and download again: whole files are kept."
            ) from error
        return dict(lock)

    def revision(self, name: str) -> str:
        """The commit of a folder that was downloaded, or the registered revision of one that was not."""
        if name in MODELS and MODELS[name].tiny:
            return MODELS[name].revision
        entry = self.locked().get(name)
        return str(entry["commit"]) if entry else source(name).revision

    def download(self, name: str, *, layout: Layout | None = None, revision: str = "") -> Fetched:
        """Bring a model or companion folder here, or complete it.

        Args:
            name: A model or companion.
            layout: Of a model; None takes its first one.
            revision: Another commit, tag or branch than the registered one; it replaces the lock's.

        Returns:
            What stands now.

        Raises:
            UnknownKeyError: If there is no such name.
            MalformedRecordError: If the revision or layout does not exist.
            StoreError: If a licence has to be accepted, a token is missing, the hub cannot be reached, or
                the disk is too small. A re-run goes on.
        """
        wanted = source(name, layout=layout)
        folder = self.root / name
        with _in_clear_words(wanted):
            commit = self._commit(wanted, revision)
            files = self._listing(wanted, commit)
            self._check_room(wanted, folder, files)
            fetch_files(
                files,
                folder,
                repo_id=wanted.repo_id,
                commit=commit,
                endpoint=self.endpoint,
                token=self.token,
                max_workers=self.max_workers,
            )
        entry = {
            "repo_id": wanted.repo_id,
            "commit": commit,
            "layout": wanted.layout,
            "licence": wanted.licence,
            "files": {
                file.path: {"size": file.size_bytes, "sha256": file.sha256}
                for file in files.values()
            },
        }
        self._lock(name, entry)
        size_bytes = sum(file.size_bytes for file in files.values())
        return Fetched(name, commit, len(files), size_bytes, folder)

    def verify(self, name: str, *, deep: bool = False) -> tuple[str, ...]:
        """What is wrong with a folder; empty if nothing.

        Args:
            name: A model or companion.
            deep: Whether contents are hashed, not only sizes compared.

        Returns:
            One sentence for each missing, cut or changed file.

        Raises:
            UnknownKeyError: If there is no such name.
        """
        folder = self.root / name
        if name in MODELS and MODELS[name].tiny:
            return _faults_of_layout(MODELS[name], folder)
        source(name)
        if not folder.is_dir():
            return (f"{name} is not there. Run: worldloop models download {name}",)
        entry = self.locked().get(name)
        if entry is None:  # put there by hand
            if name in MODELS:
                return _faults_of_layout(MODELS[name], folder)
            required = COMPANIONS[name].required
            return tuple(
                f"{name}/{path} is not there" for path in required if not (folder / path).exists()
            )
        faults = (
            _fault_of_file(name, folder / path, facts, deep=deep)
            for path, facts in sorted(entry["files"].items())
        )
        return tuple(fault for fault in faults if fault)

    def _commit(self, wanted: Source, revision: str) -> str:
        """The commit to take: asked for, locked, pinned, or what a branch points to now."""
        entry = self.locked().get(wanted.name)
        if entry and not revision:
            known = (entry["repo_id"], entry["layout"])
            if known == (wanted.repo_id, wanted.layout):
                return str(entry["commit"])
        info = self._api().model_info(wanted.repo_id, revision=revision or wanted.revision)
        return str(info.sha)

    def _listing(self, wanted: Source, commit: str) -> dict[str, RemoteFile]:
        """Every file that is taken."""
        from huggingface_hub import RepoFile

        listed = self._api().list_repo_tree(wanted.repo_id, recursive=True, revision=commit)
        files = {
            file.path: RemoteFile(file.path, file.size, file.lfs.sha256 if file.lfs else "")
            for file in listed
            if isinstance(file, RepoFile) and wanted.takes(file.path)
        }
        if not files:
            raise MalformedRecordError(
                f"{wanted.repo_id} at {commit[:12]}",
                "no file of its layout",
                ", ".join(wanted.files) or "files",
                "Choose another --layout or --revision.",
            )
        return files

    def _check_room(self, wanted: Source, folder: Path, files: Mapping[str, RemoteFile]) -> None:
        missing = sum(file.size_bytes for file in files.values() if not is_whole(folder, file))
        place = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(place).free
        if missing and missing + SPARE_GB * 1e9 > free:
            raise StoreError(
                f"{wanted.name} needs {missing / 1e9:.1f} GB more and {SPARE_GB:g} GB to spare; "
                f"{place} has {free / 1e9:.1f} GB free. Free some, or name another --checkpoint_dir."
            )

    def _lock(self, name: str, entry: dict[str, Any]) -> None:
        path = self.root / LOCK_NAME
        partial = path.with_name(f".{path.name}.partial")
        lock = {**self.locked(), name: entry}
        partial.write_text(json.dumps(lock, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        partial.replace(path)

    def _api(self) -> Any:
        from huggingface_hub import HfApi

        return HfApi(endpoint=self.endpoint or None, token=self.token or None)


def _of_companion(companion: Companion) -> Source:
    return Source(
        name=companion.name,
        repo_id=companion.repo_id,
        revision=companion.revision,
        layout="original",
        gated=companion.gated,
        licence=companion.licence,
        files=companion.files,
        ignore=companion.ignore,
        size_gb=companion.size_gb,
    )


def _of_model(model: Model, layout: Layout) -> Source:
    other = layout == "original" and model.original_revision
    return Source(
        name=model.name,
        repo_id=model.repo_id,
        revision=model.original_revision if other else model.revision,
        layout=layout,
        gated=model.gated,
        licence=model.licence,
        files=model.files(layout),
        size_gb=model.size_gb,
    )


@contextmanager
def _in_clear_words(wanted: Source) -> Iterator[None]:
    """Turn the hub's answers into one message each, with what to do."""
    import httpx2
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise StoreError(
            f"{wanted.repo_id} asks to accept its licence ({wanted.licence}) first. Open {wanted.page} while "
            "logged in, accept it, and run the same command again with a token of that account (`hf auth "
            "login`)."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise MalformedRecordError(
            f"revision of {wanted.repo_id}",
            wanted.revision,
            "a commit, tag or branch of it",
            "Leave --revision out, or look at its page for another.",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise StoreError(
            f"{wanted.repo_id} is not to be seen: it is private, or the token is missing or wrong. Make a "
            f"token of kind Read at https://huggingface.co/settings/tokens, run `hf auth login`, and look at "
            f"{wanted.page}."
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise StoreError(
                f"The hub refused {wanted.repo_id} ({status}): the token is missing or wrong. Make one of "
                "kind Read at https://huggingface.co/settings/tokens and run `hf auth login`."
            ) from error
        raise StoreError(
            f"The hub answered {status} for {wanted.repo_id}. Try again later; finished files are kept."
        ) from error
    except (httpx2.ReadError, httpx2.ReadTimeout, httpx2.RemoteProtocolError) as error:
        raise StoreError(
            f"The connection broke off while {wanted.repo_id} was coming ({type(error).__name__}). Run the same "
            "command again: what has come is kept, and the rest goes on from there."
        ) from error
    except (
        errors.OfflineModeIsEnabled,
        errors.LocalEntryNotFoundError,
        errors.IncompleteSnapshotError,
        httpx2.TransportError,
    ) as error:
        raise StoreError(
            f"The hub cannot be reached for {wanted.repo_id}: {type(error).__name__}. Check the network (and "
            "that HF_HUB_OFFLINE is not set), or copy the folder here by hand and run `worldloop models "
            f"verify {wanted.name}`."
        ) from error


def _fault_of_file(name: str, path: Path, facts: Mapping[str, Any], *, deep: bool) -> str:
    if not path.is_file():
        return f"{name}/{path.name} is not there"
    found, expected = path.stat().st_size, int(facts["size"])
    if found != expected:
        return f"{name}/{path.name} has {found} bytes instead of {expected}"
    if deep and facts["sha256"] and sha256_of(path) != facts["sha256"]:
        return f"{name}/{path.name} has another content than its revision"
    return ""


def _faults_of_layout(model: Model, folder: Path) -> tuple[str, ...]:
    """What a folder without a lock lacks of either layout."""
    if not folder.is_dir():
        remedy = "tiny" if model.tiny else "download"
        return (f"{model.name} is not there. Run: worldloop models {remedy} {model.name}",)
    if (folder / "model_index.json").exists():
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        parts = [
            name
            for name, kind in index.items()
            if isinstance(kind, list) and kind and kind[0] is not None
        ]
        return tuple(
            f"{model.name}/{part} is not there" for part in parts if not (folder / part).is_dir()
        )
    patterns = [pattern for pattern in model.original_files if pattern != "config.json"]
    missing = [pattern for pattern in patterns if not any(folder.glob(pattern))]
    return tuple(
        f"{model.name}/{pattern} is not there (nor model_index.json of a diffusers folder)"
        for pattern in missing
    )
