"""What the operator asks of the API server by its source code, and what a chart lets it ask."""

import ast
import importlib
import inspect
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import kopf

import trainyard_operator
from trainyard_operator.cluster import TOKEN_REVIEWS, Resource
from trainyard_operator.handlers import build_registry
from trainyard_operator.intake import Intake
from trainyard_operator.store import Store
from trainyard_operator.watch_login import WatchLogin
from trainyard_operator.work_queue import WorkQueue

Object = dict[str, Any]


class Permission(NamedTuple):
    """A right of Kubernetes' RBAC."""

    group: str
    resource: str
    verb: str


VERBS = {
    "get": ("get",),
    "pages": ("list",),
    "create": ("create",),
    "apply": ("patch", "create"),
    "replace": ("update",),
    "patch_status": ("patch",),
    "delete": ("delete",),
    "delete_all": ("deletecollection",),
}
"""Verbs by the method of `trainyard_operator.cluster.Cluster`; server-side apply also creates."""


def used_permissions() -> set[Permission]:
    """Every right that the source of the operator needs: its own calls, and what kopf watches for it."""
    used = {
        permission
        for path in sorted(Path(trainyard_operator.__path__[0]).glob("*.py"))
        if path.stem not in ("__init__", "__main__")
        for permission in _of_module(importlib.import_module(f"trainyard_operator.{path.stem}"))
    }
    for selector in _registry()._watching.get_all_selectors():
        used |= {Permission(selector.group or "", str(selector.any_name), verb) for verb in ("list", "watch")}
    return used


def _registry() -> kopf.OperatorRegistry:
    """What kopf watches."""
    intake = Intake(Store(), WorkQueue(), lambda: 0.0)
    return build_registry(intake, lambda _: None, WatchLogin((), lambda *_: None))


def _of_module(module: ModuleType) -> Iterator[Permission]:
    """What the calls in a module need.

    A call names its resource, or it is in a function that gets the resource (or the method) from its
    callers in the same module.
    """
    tree = ast.parse(inspect.getsource(module))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    passed_on = _methods_by_parameter(tree)
    handed_over = {
        argument.attr
        for call in calls
        for argument in call.args
        if isinstance(argument, ast.Attribute) and argument.attr in VERBS
    }
    for call in calls:
        if isinstance(call.func, ast.Attribute) and call.func.attr == "review_token":
            yield from _permissions(TOKEN_REVIEWS, "create")
        for position, argument in enumerate(call.args):
            resource = getattr(module, argument.id, None) if isinstance(argument, ast.Name) else None
            if not isinstance(resource, Resource):
                continue
            for method in _methods_of(call, position, passed_on, handed_over):
                yield from _permissions(resource, method)


def _methods_of(
    call: ast.Call, position: int, passed_on: dict[tuple[str, int], set[str]], handed_over: set[str]
) -> Iterable[str]:
    """The methods of the cluster that a call with a resource at a position leads to."""
    if isinstance(call.func, ast.Attribute) and call.func.attr in VERBS and position == 0:
        return (call.func.attr,)
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if (name, position) in passed_on:
        return passed_on[name, position]
    return handed_over if name == "verb" else ()


def _methods_by_parameter(tree: ast.Module) -> dict[tuple[str, int], set[str]]:
    """Methods that functions of a module call with one of their parameters, by function and position."""
    found: dict[tuple[str, int], set[str]] = defaultdict(set)
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        names = [argument.arg for argument in function.args.args if argument.arg != "self"]
        for call in ast.walk(function):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.args):
                continue
            first = call.args[0]
            if call.func.attr in VERBS and isinstance(first, ast.Name) and first.id in names:
                found[function.name, names.index(first.id)].add(call.func.attr)
    return found


def _permissions(resource: Resource, method: str) -> Iterator[Permission]:
    group = resource.api_version.rpartition("/")[0]
    plural = f"{resource.plural}/status" if method == "patch_status" else resource.plural
    for verb in VERBS[method]:
        yield Permission(group, plural, verb)


def granted_permissions(objects: Iterable[Object], account: str) -> dict[str, set[Permission]]:
    """Rights that a ServiceAccount gets, by namespace; cluster-wide ones under an empty name."""
    everything = list(objects)
    roles = {
        (each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"]): each["rules"]
        for each in everything
        if each["kind"] in ("Role", "ClusterRole")
    }
    granted: dict[str, set[Permission]] = defaultdict(set)
    for binding in everything:
        if binding["kind"] not in ("RoleBinding", "ClusterRoleBinding"):
            continue
        if account not in [subject["name"] for subject in binding["subjects"]]:
            continue
        namespace, role = binding["metadata"].get("namespace", ""), binding["roleRef"]
        place = namespace if role["kind"] == "Role" else ""
        granted[namespace] |= set(of_rules(roles[role["kind"], place, role["name"]]))
    return dict(granted)


def of_rules(rules: Iterable[Object]) -> Iterator[Permission]:
    """The rights of rules, whatever names they are limited to."""
    for rule in rules:
        for group in rule.get("apiGroups", ()):
            for resource in rule.get("resources", ()):
                for verb in rule["verbs"]:
                    yield Permission(group, resource, verb)
