"""Stored models that lie elsewhere: brought into the prepared folder, only the files that are read."""

import posixpath
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from trainyard_api.errors import DataError, TransientError
from trainyard_trainer.data.base_config import CONFIG, JSON_NAMES, MAXIMUM_JSON_BYTES, MAXIMUM_MODEL_BYTES
from trainyard_trainer.data.faults import fault_error, reading
from trainyard_trainer.data.locations import identity_hash, measured, open_file, open_location
from trainyard_trainer.data.parallel import Advance
from trainyard_trainer.data.steps import STORAGE_FULL

HUB = "hf://"
COPY_BYTES = 1 << 22

_READ_ENDINGS = (".json", ".safetensors")
_HUB_MODEL = re.compile(r"hf://([A-Za-z0-9._-]+/[A-Za-z0-9._-]+)@([0-9a-f]{40})")

Choose = Callable[[Iterable[str], Path], tuple[str, ...]]
"""From the names of a model's folder, and a folder with its small files, to the files with its weights.

It raises to refuse the model before anything large is fetched.
"""


class Remote(Protocol):
    """A folder elsewhere."""

    @property
    def where(self) -> str:
        """The field of the spec that names it."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Bytes of its files by name; folders in it are left out."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What its content depends on."""

    def fetch(self, names: Iterable[str], folder: Path, advance: Advance) -> None:
        """Copy files of it into a folder."""


def open_remote(uri: str, where: str) -> Remote:
    """The folder of a stored model.

    Args:
        uri: hf://organisation/name@commit, or another URI of a folder.
        where: the field of the spec that names it.

    Raises:
        DataError: it is not there, or may not be read.
        TransientError: it cannot be reached.
        ConfigurationError: it is no place that a run reads from, or a package for it is missing.
    """
    return HubModel.named(uri, where) if uri.startswith(HUB) else StoredFolder.at(uri, where)


def fetch_model(remote: Remote, folder: Path, choose: Choose, advance: Advance) -> tuple[str, ...]:
    """Fetch the small files of a stored model, and then its weights; returns the names of the weights.

    Raises:
        DataError: it is too large, incomplete, or `choose` refuses it.
        TransientError: it cannot be reached.
    """
    small = [name for name in JSON_NAMES if name in remote.sizes]
    if CONFIG not in small:
        raise DataError(remote.where, f"its folder has no {CONFIG}", "Name the folder of a stored model")
    for name in small:
        if remote.sizes[name] > MAXIMUM_JSON_BYTES:
            raise DataError(
                remote.where,
                f"{name} has {remote.sizes[name]} bytes, more than {MAXIMUM_JSON_BYTES}",
                "Name a folder in the form of Transformers",
            )
    remote.fetch(small, folder, advance)
    weights = choose(remote.sizes, folder)
    total = sum(remote.sizes[name] for name in weights)
    if total > MAXIMUM_MODEL_BYTES:
        raise DataError(
            remote.where,
            f"its weights have {total} bytes, more than {MAXIMUM_MODEL_BYTES}",
            "Start from a smaller model",
        )
    remote.fetch([name for name in weights if name not in small], folder, advance)
    return weights


@dataclass(frozen=True)
class StoredFolder:
    """A folder that fsspec reads."""

    uri: str
    file_system: Any
    paths: Mapping[str, str]
    sizes: Mapping[str, int]
    identity: Mapping[str, Any]
    where: str

    @classmethod
    def at(cls, uri: str, where: str) -> "StoredFolder":
        """List the folder of a URI."""
        file_system, root = open_location(uri, where)
        with reading(where, uri, "Name the folder of a stored model"):
            file_system.invalidate_cache()
            entries = [entry for entry in file_system.ls(root, detail=True) if entry.get("type") == "file"]
            infos = {posixpath.basename(str(entry["name"])): entry for entry in entries}
            for name, entry in infos.items():
                if name.endswith(_READ_ENDINGS) and entry.get("size") is None:
                    info = file_system.info(entry["name"])
                    infos[name] = measured(file_system, str(info["name"]), info, lambda _: None)
            paths = {name: str(info["name"]) for name, info in infos.items()}
            sizes = {name: int(info.get("size") or 0) for name, info in infos.items()}
            keys = [
                [name, sizes[name], identity_hash(file_system, paths[name], infos[name], lambda _: None)]
                for name in sorted(infos)
                if name.endswith(_READ_ENDINGS)
            ]
        return cls(uri, file_system, paths, sizes, {"files": keys}, where)

    def fetch(self, names: Iterable[str], folder: Path, advance: Advance) -> None:
        """See `Remote`."""
        for name in names:
            with (folder / name).open("wb") as target:
                for block in self._blocks(name):
                    target.write(block)
                    advance(len(block))

    def _blocks(self, name: str) -> Iterator[bytes]:
        """The bytes of a file; only what its store raises is told as an error of the store."""
        path = self.paths[name]
        size_bytes = self.sizes[name]
        with (
            reading(self.where, path, "Store the model again"),
            open_file(self.file_system, path, size_bytes) as source,
        ):
            while block := source.read(COPY_BYTES):
                yield block


@dataclass(frozen=True)
class HubModel:
    """One commit of a model of the Hugging Face hub, read by the hub's own client."""

    repository: str
    commit: str
    sizes: Mapping[str, int]
    where: str

    @property
    def identity(self) -> Mapping[str, Any]:
        """See `Remote`; a commit never changes."""
        return {"repository": self.repository, "commit": self.commit}

    @classmethod
    def named(cls, uri: str, where: str) -> "HubModel":
        """List the files of a commit."""
        matched = _HUB_MODEL.fullmatch(uri)
        if matched is None:
            raise DataError(where, f"{uri} names no commit", "Write hf://organisation/name@ and 40 digits")
        listed = _snapshot(matched[1], matched[2], ["*"], where, dry_run=True)
        sizes = {str(file.filename): int(file.file_size or 0) for file in listed if "/" not in file.filename}
        return cls(matched[1], matched[2], sizes, where)

    def fetch(self, names: Iterable[str], folder: Path, advance: Advance) -> None:
        """See `Remote`."""
        download = folder / "download"
        _snapshot(self.repository, self.commit, list(names), self.where, local_dir=download)
        for name in names:
            (download / name).rename(folder / name)
            advance(self.sizes[name])
        shutil.rmtree(download)


def _snapshot(repository: str, commit: str, names: list[str], where: str, **options: Any) -> Any:
    """Call the hub's client.

    Raises:
        DataError: there is no such model or commit, this user may not read it, or the request is none.
        TransientError: the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - only such runs need it
    from huggingface_hub.errors import (  # noqa: PLC0415
        RepositoryNotFoundError,
        RevisionNotFoundError,
        RevisionResolutionError,
        XetDownloadError,
    )

    try:
        return snapshot_download(repository, revision=commit, allow_patterns=names, **options)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise DataError(
            where,
            f"the hub shows no {repository} at commit {commit} to this user",
            "Correct the name or the commit, or give the processes a token in HF_TOKEN",
        ) from error
    except (OSError, RevisionResolutionError, XetDownloadError) as error:
        if isinstance(error, OSError) and error.errno in STORAGE_FULL:
            raise
        raise fault_error(error, where, f"{HUB}{repository}@{commit}") or TransientError(
            where,
            f"the hub cannot be reached for {repository}: {error}",
            "Check the network, or name a folder of your storage",
        ) from error
