"""Strategic merge of a run's podTemplate over Trainyard's pod template, as Kubernetes merges patches.

Objects merge by key and null removes a key. Lists of the table below merge element by element; every
other list is replaced. `$patch: replace`, `$patch: delete` and `$retainKeys` work as they do in
Kubernetes; other directives are refused. Two things differ from the API server, both in favour of what
the author meant: tolerations are added to Trainyard's instead of replacing them, and a volume or variable
that gets another kind of source loses the one it had.
"""

from typing import Any

from trainyard_api.errors import ConfigurationError
from trainyard_operator.resources.facts import Object

TEMPLATE_PATH = "spec.workers.podTemplate"

MERGE_KEYS: dict[str, tuple[str, ...]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "ephemeralContainers": ("name",),
    "volumes": ("name",),
    "imagePullSecrets": ("name",),
    "hostAliases": ("ip",),
    "resourceClaims": ("name",),
    "schedulingGates": ("name",),
    "evictionResponders": ("name",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    "tolerations": ("key", "effect", "value"),
    "env": ("name",),
    "ports": ("containerPort", "protocol"),
    "volumeMounts": ("mountPath",),
    "volumeDevices": ("devicePath",),
}
"""Fields of PodSpec and Container whose lists merge, and what identifies an element.

Source: `x-kubernetes-patch-merge-key` and `x-kubernetes-list-map-keys` of
io.k8s.api.core.v1.PodTemplateSpec in `api/openapi-spec/swagger.json` of Kubernetes v1.37.2; where the two
differ (ports, topologySpreadConstraints), the list-map keys, which identify an element. No other list
below a pod template has such a name. Tolerations are atomic there and are added here.
"""

KEY_DEFAULTS = {"protocol": "TCP", "key": "", "effect": "", "value": ""}
"""Parts of keys that may be left out."""

UNIONS: dict[str, frozenset[str]] = {
    "volumes": frozenset({"name"}),
    "env": frozenset({"name"}),
}
"""Lists whose elements hold one source beside these fields."""

REPLACE = {"$patch": "replace"}


def strategic_merge(base: Object, patch: Object, path: str) -> Object:
    """The base with the patch merged over it; neither is changed.

    Args:
        base: an object without directives.
        patch: the object that wins.
        path: field of the run that holds the patch, for errors.

    Raises:
        ConfigurationError: the patch has another shape than the base, repeats or lacks a key of a list, or
            uses an unknown directive.
    """
    directive = _directive(patch, path)
    retained = patch.get("$retainKeys")
    merged = {} if directive == "replace" else dict(base)
    if retained is not None:
        merged = {key: value for key, value in merged.items() if key in retained}
    for key, value in patch.items():
        if key.startswith("$"):
            continue
        if value is None or (isinstance(value, dict) and value.get("$patch") == "delete"):
            merged.pop(key, None)
        else:
            merged[key] = _merged_value(merged.get(key), value, key, f"{path}.{key}")
    return merged


def _merged_value(old: Any, value: Any, key: str, path: str) -> Any:
    """The value of one key after the merge; old is None where there was none."""
    for kind, name in ((dict, "an object"), (list, "a list")):
        if isinstance(old, kind) and not isinstance(value, kind):
            raise ConfigurationError(path, f"{value!r} is not {name}", f"Write {name}, or null to remove it")
    if isinstance(value, dict):
        return strategic_merge(old or {}, value, path)
    if isinstance(value, list) and key in MERGE_KEYS:
        return _merged_list(old or [], value, key, path)
    return value


def _merged_list(old: list[Object], patch: list[Any], name: str, path: str) -> list[Object]:
    """A list whose elements merge by their keys; new ones go to the end."""
    merged = [] if REPLACE in patch else list(old)
    seen: set[tuple[Any, ...]] = set()
    for position, entry in enumerate(patch):
        where = f"{path}[{position}]"
        if entry == REPLACE:
            continue
        if not isinstance(entry, dict):
            raise ConfigurationError(where, f"{entry!r} is not an object", f"Write the fields of {name}")
        identity = _identity(entry, MERGE_KEYS[name], where)
        if identity in seen:
            raise ConfigurationError(
                where, f"{_readable(name, identity)} is already in this list", "Keep one of them"
            )
        seen.add(identity)
        index = next(
            (
                i
                for i, element in enumerate(merged)
                if _identity(element, MERGE_KEYS[name], where) == identity
            ),
            len(merged),
        )
        replaced = merged[index : index + 1]
        merged[index : index + 1] = _merged_element(replaced, entry, name, where)
    return merged


def _merged_element(old: list[Object], entry: Object, name: str, path: str) -> list[Object]:
    """The element that stands for an old one, or for none; none when it is deleted."""
    if entry.get("$patch") == "delete":
        return []
    base = old[0] if old else {}
    if name in UNIONS:
        base = _without_other_source(base, entry, UNIONS[name])
    return [strategic_merge(base, entry, path)]


def _without_other_source(base: Object, entry: Object, common: frozenset[str]) -> Object:
    """The base without the sources that the entry does not name, when it names one."""
    sources = {
        key for key, value in entry.items() if key not in common and value is not None and key[0] != "$"
    }
    return {key: value for key, value in base.items() if not sources or key in common or key in sources}


def _identity(element: Object, keys: tuple[str, ...], path: str) -> tuple[Any, ...]:
    """What tells an element from the others of its list."""
    for key in keys:
        value = element.get(key, KEY_DEFAULTS.get(key))
        if value is None or isinstance(value, dict | list):
            raise ConfigurationError(
                path, f"{key} is missing, which tells the elements apart", f"Set {key} to the one you mean"
            )
    return tuple(element.get(key, KEY_DEFAULTS.get(key)) for key in keys)


def _readable(name: str, identity: tuple[Any, ...]) -> str:
    """An element in a sentence."""
    return f"{name} {' '.join(str(part) for part in identity if part != '')}"


def _directive(patch: Object, path: str) -> str | None:
    """The value of `$patch`, when it and every other directive are known.

    Raises:
        ConfigurationError: one is not.
    """
    for key in patch:
        if key.startswith("$") and key not in ("$patch", "$retainKeys"):
            raise ConfigurationError(
                f"{path}.{key}", "Trainyard does not know this directive", "Use $patch or $retainKeys"
            )
    directive = patch.get("$patch")
    if directive not in (None, "merge", "replace"):
        raise ConfigurationError(
            f"{path}.$patch", f"{directive!r} cannot be done here", "Write replace, merge or, inside, delete"
        )
    retained = patch.get("$retainKeys", [])
    if not isinstance(retained, list) or not all(isinstance(key, str) for key in retained):
        raise ConfigurationError(
            f"{path}.$retainKeys", "it is not a list of field names", "Write [name, ...]"
        )
    return directive
