"""The immutable fields of the CRD, as CEL rules that compare each value with its old one.

Kubernetes evaluates all rules of the spec whenever it writes a status, and looking up one field of an object
costs it a copy of the schemas of all fields of that object. So each rule stands at the very value, where
nothing has to be looked up. There it does not see that its field appears or disappears, which no field can
that is required or has a default; for the others a rule of the object says that they do neither.
"""

from trainyard_api.immutability import is_mutable
from trainyard_api.schema_tree import Node

RULES = "x-kubernetes-validations"
_LIST_KEYS = "x-kubernetes-list-map-keys"


def add_transition_rules(node: Node, path: str) -> None:
    """Add the rules to a structural schema and what lies below it.

    Args:
        node: the schema, which is changed; its objects must be comparable with their old versions.
        path: where it stands in the resource, such as spec; mutable fields below it are left out.
    """
    if "properties" not in node or node.get("x-kubernetes-preserve-unknown-fields"):
        _keep_value(node, path)
        return
    required = node.get("required", ())
    for name, child in node["properties"].items():
        field = f"{path}.{name}"
        if is_mutable(field):
            continue
        if name not in required and "default" not in child:
            _add(node, f"has(self.{name}) == has(oldSelf.{name})", field, f".{name}")
        add_transition_rules(child, field)


def _keep_value(node: Node, path: str) -> None:
    """Rules of a value without known members, or of a list."""
    if _LIST_KEYS not in node:
        _add(node, "self == oldSelf", path)
        return
    (key,) = node[_LIST_KEYS]
    same_keys = f"self.all(x, oldSelf.exists(y, x.{key} == y.{key}))"
    _add(node, f"self.size() == oldSelf.size() && {same_keys}", path)
    add_transition_rules(node["items"], f"{path}[]")


def _add(node: Node, rule: str, field: str, below: str = "") -> None:
    """Add a rule to a node that is about a field, which may lie below the node."""
    message = f"{field} is immutable. Create a new TrainingRun instead"
    place = {"fieldPath": below} if below else {}
    node.setdefault(RULES, []).append({"rule": rule, "message": message, **place})
