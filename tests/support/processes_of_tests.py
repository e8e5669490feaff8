"""How tests are divided among the processes of pytest-xdist: what shares something dear stays together."""

import pytest

CLUSTER = "cluster"
"""The tests on a control plane, of which a session starts one: its tests wait more than they compute."""


def group_of(item: pytest.Item) -> str:
    """The group whose tests one process runs: the cluster's, or that of the test's file."""
    if "cluster" in getattr(item, "fixturenames", ()) or item.get_closest_marker("control_plane"):
        return CLUSTER
    return item.nodeid.partition("::")[0]


def divide(items: list[pytest.Item]) -> None:
    """Name each test's group, and put the groups that take longest first.

    The cluster's comes first, then files that train; the short rest fills up what is left of any process.
    """
    slow = {group_of(item) for item in items if item.get_closest_marker("slow")}
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group_of(item)))
    items.sort(key=lambda item: (group_of(item) != CLUSTER, group_of(item) not in slow))
