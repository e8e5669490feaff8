"""A cluster by hand, for developers and benchmarks.

python -m tests.cluster up [--fake-nodes N] [--real-node]     prints the path of an admin's kubeconfig
python -m tests.cluster down
"""

import argparse
import os
import signal
import sys
import time

from tests.cluster.cluster import start_detached
from tests.cluster.keeper import Options, keeper_of
from tests.cluster.locations import states_folder
from trainyard_api.errors import TrainyardError

_NAME = "by-hand"


def main() -> int:
    """Start or stop the cluster that belongs to no test session."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description="A real Kubernetes by hand.")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start it and print the path of a kubeconfig")
    up.add_argument("--fake-nodes", type=int, default=4, metavar="N", help="kwok nodes, with 64 GPUs each")
    up.add_argument("--real-node", action="store_true", help="a kubelet with containerd; needs root")
    commands.add_parser("down", help="stop it and remove all of it")
    arguments = parser.parse_args()
    if arguments.command == "down":
        _down()
        return 0
    options = Options(name=_NAME, num_fake_nodes=arguments.fake_nodes, real_node=arguments.real_node)
    try:
        print(start_detached(options).kubeconfig)  # noqa: T201 - the answer
    except TrainyardError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _down() -> None:
    """Stop the cluster; nothing to do when none is up."""
    keeper = keeper_of(_NAME)
    if keeper is None:
        return
    os.kill(keeper, signal.SIGTERM)
    while (states_folder() / _NAME).exists():
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
