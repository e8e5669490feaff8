"""The CustomResourceDefinition of a TrainingRun: a structural schema with CEL rules, from the models."""

import copy
from collections.abc import Iterable
from typing import Any

import yaml

from trainyard_api.crd_transitions import add_transition_rules
from trainyard_api.model import ApiModel
from trainyard_api.names import CATEGORIES, GROUP, KIND, PLURAL, SHORT_NAMES, SINGULAR, VERSION, File
from trainyard_api.quantities import QUANTITY_PATTERN
from trainyard_api.rules.all_rules import ALL_RULES
from trainyard_api.schema_tree import Node, is_free_form, schema_tree
from trainyard_api.spec import TrainingRun
from trainyard_api.status import TrainingRunStatus


def _kubernetes_object(description: str) -> Node:
    """An object whose fields Kubernetes defines."""
    return {"type": "object", "description": description, "x-kubernetes-preserve-unknown-fields": True}


def _amounts(description: str) -> Node:
    """Amounts by resource; those that every container may have are checked, as text and as numbers."""
    amount = {"x-kubernetes-preserve-unknown-fields": True, "pattern": QUANTITY_PATTERN, "minimum": 0}
    names = ("cpu", "memory", "ephemeral-storage")
    described = {name: {"description": f"Amount of {name}.", **amount} for name in names}
    return {**_kubernetes_object(description), "properties": described}


LIST_MAP_KEYS = {"spec.data.sources": ["name"], "status.conditions": ["type"]}
"""Lists whose items are told apart by a key, which the API server then keeps unique."""

KNOWN_MEMBERS: dict[str, dict[str, Node]] = {
    "spec.workers.resources": {
        "limits": _amounts("Most that the container may use, by resource."),
        "requests": _amounts("What the container is sure to get, by resource."),
        "claims": {
            "type": "array",
            "description": "Claims of dynamic resource allocation.",
            "items": _kubernetes_object("A claim, by name."),
        },
    },
    "spec.workers.podTemplate": {
        "metadata": _kubernetes_object("Labels and annotations of the pod."),
        "spec": _kubernetes_object("Fields of the pod."),
    },
}
"""Objects of Kubernetes of which the CRD names the members, so that the API server refuses any other."""

PRINTER_COLUMNS = (
    ("Phase", "string", ".status.phase", "What the run is doing"),
    ("Step", "integer", ".status.progress.step", "Optimizer steps done"),
    ("Progress", "number", ".status.progress.percent", "Part of the stage that is done, in percent"),
    ("Loss", "number", ".status.progress.loss", "Training loss, a mean over predictions"),
    ("Tokens/s", "number", ".status.progress.tokensPerSecond", "Tokens per second over all processes"),
    ("ETA", "integer", ".status.progress.etaSeconds", "Seconds left of the stage, estimated"),
    ("Restarts", "integer", ".status.restarts", "Restarts after faults"),
    ("Age", "date", ".metadata.creationTimestamp", ""),
)

_KEPT_KEYWORDS = (
    "type",
    "description",
    "format",
    "enum",
    "pattern",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "required",
    "default",
)


def custom_resource_definition() -> dict[str, Any]:
    """The CRD as a plain object, ready for YAML."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": SINGULAR,
                "shortNames": list(SHORT_NAMES),
                "categories": list(CATEGORIES),
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [_printer_column(*column) for column in PRINTER_COLUMNS],
                    "schema": {"openAPIV3Schema": _root_schema()},
                }
            ],
        },
    }


def custom_resource_definition_yaml() -> str:
    """The CRD as YAML."""

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - yaml's signature
            return True

    return yaml.dump(custom_resource_definition(), Dumper=Dumper, sort_keys=False, width=110)


def structural_schema(model: type[ApiModel], path: str, *, defaults: bool) -> Node:
    """The structural schema of a model.

    Args:
        model: the model.
        path: where its objects stand in the resource, such as spec.
        defaults: whether to write defaults; the observed state has none, since the operator writes all of it.
    """
    return _structural(schema_tree(model), path, defaults=defaults)


def _root_schema() -> Node:
    """The schema of the whole resource; Kubernetes itself describes metadata."""
    run = structural_schema(TrainingRun, "", defaults=True)
    properties = run["properties"]
    spec = properties["spec"]
    status = structural_schema(TrainingRunStatus, "status", defaults=False)
    # One owner writes all of it; who owns which field of it would double its size.
    status["x-kubernetes-map-type"] = "atomic"
    add_transition_rules(spec, "spec")
    return {
        "type": "object",
        "description": run["description"],
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": properties["apiVersion"]["description"]},
            "kind": {"type": "string", "description": properties["kind"]["description"]},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": status,
        },
        "x-kubernetes-validations": [
            {
                "rule": "self.metadata.name.size() <= 63 && !self.metadata.name.contains('.')",
                "message": "metadata.name becomes part of host names. Use at most 63 characters, no dots",
            },
            {
                "rule": f"self.metadata.name != '{File.PREPARED}'",
                "message": f"metadata.name '{File.PREPARED}' is the folder of the prepared data of all runs. "
                "Give the run another name",
            },
        ],
    }


def _structural(node: Node, path: str, *, defaults: bool) -> Node:
    """A plain node as a structural one, with the rules that belong to it."""
    schema = _structural_keywords(node)
    if not defaults:
        schema.pop("default", None)
    if path in KNOWN_MEMBERS:
        schema["properties"] = copy.deepcopy(KNOWN_MEMBERS[path])
    elif is_free_form(node):
        schema["x-kubernetes-preserve-unknown-fields"] = True
    elif isinstance(node.get("additionalProperties"), dict):
        values = node["additionalProperties"]
        schema["additionalProperties"] = _structural(values, f"{path}{{}}", defaults=defaults)
    if "properties" in node:
        schema["properties"] = {
            name: _structural(child, f"{path}.{name}" if path else name, defaults=defaults)
            for name, child in node["properties"].items()
        }
    if "items" in node:
        schema["items"] = _structural(node["items"], f"{path}[]", defaults=defaults)
    if path in LIST_MAP_KEYS:
        schema |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": LIST_MAP_KEYS[path]}
    if validations := list(_rule_validations(path)):
        schema["x-kubernetes-validations"] = validations
    return schema


def _structural_keywords(node: Node) -> Node:
    """The keywords of a node that say the same in both dialects, and those that need another form."""
    schema: Node = {keyword: node[keyword] for keyword in _KEPT_KEYWORDS if keyword in node}
    if "description" in schema:
        schema["description"] = " ".join(schema["description"].split())
    for keyword, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if keyword in node:
            schema |= {bound: node[keyword], keyword: True}
    if "default" in schema:
        # Whole objects, not {}: the API server checks the CEL rules on a default as it is written.
        schema["default"] = _without_nulls(schema["default"])
    return schema


def _without_nulls(value: Any) -> Any:
    """A default without its unset members."""
    if not isinstance(value, dict):
        return value
    return {key: _without_nulls(child) for key, child in value.items() if child is not None}


def _rule_validations(path: str) -> Iterable[dict[str, str]]:
    """The rules of `rules` that belong to a node."""
    for rule in ALL_RULES:
        if rule.cel is not None and rule.node == path:
            place = {"fieldPath": rule.field.removeprefix(path)} if rule.field else {}
            yield {"rule": rule.cel, "message": rule.message, **place}


def _printer_column(name: str, kind: str, json_path: str, description: str) -> dict[str, Any]:
    """A column of `kubectl get`."""
    column: dict[str, Any] = {"name": name, "type": kind, "jsonPath": json_path}
    return column | ({"description": description} if description else {})
