"""The `trainyard` command."""

import errno
import sys

from trainyard_api.errors import TrainyardError
from trainyard_api.names import ExitCode
from trainyard_trainer.cli import app
from trainyard_trainer.exit_records import say


def main() -> None:
    """Run a command; an error becomes a line with a remedy and the exit code, without a traceback."""
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


if __name__ == "__main__":
    main()
