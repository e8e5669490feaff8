"""The operator's command: settings from the environment, then run until SIGTERM."""

import argparse
import asyncio
import gc
import logging
import os
import signal
import sys

from trainyard_operator.application import run_operator
from trainyard_operator.errors import ClusterError, SettingsError
from trainyard_operator.settings import Settings
from trainyard_operator.tls_buffers import shrink_tls_buffers


def main() -> None:
    """Run the operator; exit code 2 for wrong settings, 1 when it cannot start."""
    arguments = _parse_arguments()
    try:
        settings = Settings.from_environment(os.environ)
    except SettingsError as error:
        sys.exit(_complain(str(error), 2))
    if arguments.no_leader_election:
        settings = settings.model_copy(update={"leader_election": False})
    logging.basicConfig(
        level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stdout
    )
    logging.getLogger("kopf").setLevel(logging.WARNING)
    shrink_tls_buffers()
    # What the imports made stays; without this, each full collection walks all of it while runs wait.
    gc.collect()
    gc.freeze()
    try:
        asyncio.run(_run(settings))
    except (ClusterError, OSError) as error:
        sys.exit(_complain(str(error), 1))


async def _run(settings: Settings) -> None:
    """Run until a signal comes."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def install_signals() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)

    install_signals()
    await run_operator(settings, stop, install_signals)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="trainyard-operator",
        description="Runs TrainingRuns on Kubernetes. Settings are environment variables:",
        epilog=Settings.help_text(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--no-leader-election", action="store_true", help="act without a lease; right for one replica only"
    )
    return parser.parse_args()


def _complain(message: str, code: int) -> int:
    """Say why the operator does not run, and the exit code for it."""
    sys.stderr.write(f"trainyard-operator: {message}\n")
    return code


if __name__ == "__main__":
    main()
