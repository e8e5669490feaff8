"""Container images without a container engine: written as archives that containerd imports."""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.cluster.recipes import program_path

PAUSE_IMAGE = "test.trainyard.dev/pause:1"
BASE_IMAGE = "test.trainyard.dev/base:1"
"""Empty folders; a pod mounts this machine's programs and libraries into them."""

MOUNTED_FOLDERS = ("/usr", "/lib", "/lib64", "/bin", "/sbin")
_EMPTY_FOLDERS = ("etc", "root", "home", "tmp", "opt", "srv", "work", "data", "storage", "run", "var")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def write_pause_image(path: Path, machine: str) -> None:
    """Write the image of a pod's sandbox."""
    layer = _layer({"pause": program_path("pause").read_bytes()}, [])
    _write_archive(path, PAUSE_IMAGE, layer, {"Entrypoint": ["/pause"], "User": "65535:65535"}, machine)


def write_base_image(path: Path, machine: str) -> None:
    """Write the image of the containers, with this machine's name service of files, then DNS."""
    files = {
        "etc/nsswitch.conf": b"hosts: files dns\n",
        "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\ntrainyard:x:1000:1000:trainyard:/home:/bin/sh\n",
        "etc/group": b"root:x:0:\ntrainyard:x:1000:\n",
    }
    folders = [*(folder.lstrip("/") for folder in MOUNTED_FOLDERS), *_EMPTY_FOLDERS]
    configuration = {"Env": ["PATH=/usr/local/bin:/usr/bin:/bin"]}
    _write_archive(path, BASE_IMAGE, _layer(files, folders), configuration, machine)


def _layer(files: Mapping[str, bytes], folders: Sequence[str]) -> bytes:
    """The archive of an image's only layer."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for folder in folders:
            entry = tarfile.TarInfo(folder)
            entry.type = tarfile.DIRTYPE
            entry.mode = 0o1777 if folder == "tmp" else 0o755
            archive.addfile(entry)
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            entry.mode = 0o755
            archive.addfile(entry, io.BytesIO(data))
    return content.getvalue()


def _write_archive(
    path: Path, reference: str, layer: bytes, configuration: Mapping[str, Any], machine: str
) -> None:
    """Write an image in the format of `docker save`, which `ctr images import` reads."""
    digest = hashlib.sha256(layer).hexdigest()
    document = {
        "os": "linux",
        "architecture": ARCHITECTURES[machine],
        "config": configuration,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    described = json.dumps(document).encode()
    config_name = f"{hashlib.sha256(described).hexdigest()}.json"
    layer_name = f"{digest}/layer.tar"
    manifest = [{"Config": config_name, "RepoTags": [reference], "Layers": [layer_name]}]
    members = {config_name: described, layer_name: layer, "manifest.json": json.dumps(manifest).encode()}
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
