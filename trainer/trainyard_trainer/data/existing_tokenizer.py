"""Existing tokenizers: read as data (tokenizer.json), never as code, and checked against the objective."""

import json
import posixpath
from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer

from trainyard_api.errors import DataError
from trainyard_trainer.data.faults import Fault, fault_of, reading
from trainyard_trainer.data.locations import open_file, open_location
from trainyard_trainer.data.manifest import hash_of
from trainyard_trainer.data.sources import resolve_mounts
from trainyard_trainer.data.special_tokens import USUAL, Objective, Role, SpecialTokens

MAXIMUM_TOKENIZER_BYTES = 128 << 20
MAXIMUM_CONFIG_BYTES = 8 << 20
WHERE = "spec.tokenizer.uri"
CONFIG = "tokenizer_config.json"
SPECIAL = "special_tokens_map.json"
TEMPLATE = "chat_template.jinja"
ROLES: tuple[Role, ...] = ("pad", "unk", "cls", "sep", "mask", "bos", "eos")


def read_existing(uri: str, mounts: Mapping[str, str], where: str = WHERE) -> tuple[bytes, bytes]:
    """The bytes of tokenizer.json and of its configuration (empty when there is none).

    The configuration is tokenizer_config.json, with what only special_tokens_map.json says and the template
    of chat_template.jinja.

    Args:
        uri: a tokenizer.json or a folder that holds it.
        mounts: see `sources.resolve_mounts`.
        where: the field of the spec that named it.

    Raises:
        DataError: there is no such file, or it is too large.
        TransientError: its place cannot be reached.
        ConfigurationError: its place is none that a run reads from, or a package for it is missing.
    """
    resolved = resolve_mounts(uri, mounts)
    file_system, path = open_location(resolved, where)
    with reading(where, resolved, "Name a tokenizer.json or a folder that holds it"):
        if file_system.isdir(path):
            path = posixpath.join(path, "tokenizer.json")
        tokenizer = _read_bounded(file_system, path, MAXIMUM_TOKENIZER_BYTES, where)
        beside = posixpath.dirname(path)
        config, special, template = (
            _read_if_there(file_system, posixpath.join(beside, name), MAXIMUM_CONFIG_BYTES, where)
            for name in (CONFIG, SPECIAL, TEMPLATE)
        )
        text = template.decode()
    completed = _completed_config(config, special, where)
    return tokenizer, _with_template(completed, text, where) if text else completed


def load_existing(
    content: bytes, config: bytes, objective: Objective, where: str = WHERE
) -> tuple[Tokenizer, SpecialTokens]:
    """A tokenizer and its special tokens, with padding, truncation and randomness turned off.

    Raises:
        DataError: it is damaged, or lacks a special token that the objective needs.
    """
    tokenizer = parse_tokenizer(content, where)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    special = _special_tokens(tokenizer, parse_config(config, where))
    return tokenizer, SpecialTokens(_completed(special, objective, where))


def parse_tokenizer(content: bytes, where: str) -> Tokenizer:
    """A tokenizer from the bytes of its tokenizer.json.

    Raises:
        DataError: it is damaged.
    """
    try:
        return Tokenizer.from_str(json.dumps(_deterministic(json.loads(content))))
    except Exception as error:
        raise DataError(where, f"tokenizer.json cannot be read: {error}", "Replace the file") from error


def vocabulary_hash(tokenizer: Tokenizer) -> str:
    """SHA-256 over the entries of a tokenizer and their ids: equal hashes mean equal rows of an embedding."""
    return hash_of(sorted(tokenizer.get_vocab(with_added_tokens=True).items()))


def _completed_config(config: bytes, special: bytes, where: str) -> bytes:
    """A configuration with the special tokens that only the map of special tokens names."""
    if not special:
        return config
    known, mapped = parse_config(config, where), parse_config(special, where, SPECIAL)
    named = {f"{role}_token" for role in ROLES}
    added = {
        name: token for name, token in mapped.items() if name in named and known.get(name) is None and token
    }
    return json.dumps({**known, **added}, sort_keys=True).encode() if added else config


def _with_template(config: bytes, template: str, where: str) -> bytes:
    """A configuration with a chat template that lies beside it, as Transformers prefers it."""
    known = parse_config(config, where)
    return json.dumps({**known, "chat_template": template}, sort_keys=True).encode()


def _completed(special: dict[Role, str], objective: Objective, where: str) -> dict[Role, str]:
    """The special tokens with stand-ins for those that a family goes without.

    Raises:
        DataError: one is missing that has no stand-in.
    """
    special = dict(special)
    if objective == "MaskedLM":
        _borrow(special, "cls", "bos")
        _borrow(special, "sep", "eos")
        needed: tuple[Role, ...] = ("mask", "cls", "sep", "pad")
    else:
        _borrow(special, "eos", "sep")
        _borrow(special, "bos", "cls")
        _borrow(special, "bos", "eos")
        _borrow(special, "eos", "bos")
        _borrow(special, "pad", "eos")
        needed = ("bos", "eos", "pad")
    missing = [role for role in needed if role not in special]
    if missing:
        raise DataError(
            where,
            f"the tokenizer has no {missing[0]} token, which {objective} needs",
            "Use another tokenizer, or train one with spec.tokenizer.train",
        )
    return special


def _borrow(special: dict[Role, str], role: Role, other: Role) -> None:
    if role not in special and other in special:
        special[role] = special[other]


def _special_tokens(tokenizer: Tokenizer, config: Mapping[str, Any]) -> dict[Role, str]:
    """Special tokens by the configuration, else by their usual names among the added tokens."""
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    special: dict[Role, str] = {}
    for role in ROLES:
        configured = config.get(f"{role}_token")
        name = configured.get("content") if isinstance(configured, dict) else configured
        names = (name,) if isinstance(name, str) else () if config else USUAL[role]
        for candidate in names:
            if tokenizer.token_to_id(candidate) is not None and (config or candidate in added):
                special[role] = candidate
                break
    return special


def parse_config(config: bytes, where: str, name: str = CONFIG) -> Mapping[str, Any]:
    """The content of a configuration; nothing where there is none.

    Raises:
        DataError: it is no JSON object.
    """
    if not config:
        return {}
    try:
        content = json.loads(config)
    except ValueError as error:
        raise DataError(where, f"{name} is not JSON: {error}", "Replace the file") from error
    if not isinstance(content, dict):
        raise DataError(where, f"{name} is not an object", "Replace the file")
    return content


def _deterministic(content: Any) -> Any:
    """The tokenizer without BPE dropout, which would give other tokens at each call."""
    if (
        isinstance(content, dict)
        and isinstance(content.get("model"), dict)
        and content["model"].get("dropout")
    ):
        content["model"]["dropout"] = None
    return content


def _read_if_there(file_system: Any, path: str, maximum_bytes: int, where: str) -> bytes:
    """The bytes of a file, none where there is no such file."""
    try:
        return _read_bounded(file_system, path, maximum_bytes, where)
    except FileNotFoundError as error:
        if fault_of(error) is Fault.ABSENT:
            return b""
        raise


def _read_bounded(file_system: Any, path: str, maximum_bytes: int, where: str) -> bytes:
    with open_file(file_system, path) as file:
        content = bytes(file.read(maximum_bytes + 1))
    if len(content) > maximum_bytes:
        raise DataError(
            where, f"{path} has more than {maximum_bytes} bytes", "Name a tokenizer.json, not a model"
        )
    return content
