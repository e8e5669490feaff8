"""The `trainyard` command."""

import errno
import sys

from trainyard_trainer.init_process import continue_in_child_of_init


def main() -> None:
    """Run a command, in a container in a child of the first process."""
    continue_in_child_of_init()
    run_command()


def run_command() -> None:
    """Run a command; an error becomes a line with a remedy and the exit code, without a traceback."""
    # Loaded here, so that the first process of a container does without.
    from trainyard_api.errors import TrainyardError  # noqa: PLC0415
    from trainyard_api.names import ExitCode  # noqa: PLC0415
    from trainyard_trainer.cli import app  # noqa: PLC0415
    from trainyard_trainer.exit_records import drop_what_cannot_be_said, say  # noqa: PLC0415

    try:
        app(standalone_mode=True)
    except TrainyardError as error:
        say(str(error))
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        say(f"{error.filename or 'the run folder'}: no space is left. Free space and run again")
        sys.exit(ExitCode.STORAGE_FULL)
    finally:
        drop_what_cannot_be_said()


if __name__ == "__main__":
    main()
