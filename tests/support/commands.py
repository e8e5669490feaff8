"""The `trainyard` command inside the test's process: fast, for commands that start no other."""

import sys
from collections.abc import Callable

import pytest

from trainyard_trainer.__main__ import main

Caller = Callable[..., tuple[int, str, str]]


def command_caller(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Caller:
    """A function that runs a command and gives its exit code, output and errors."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["trainyard", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as left:
            code = int(left.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
