"""In a pod: why it ended, for the kubelet to read; and process 1 of a container."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trainyard_api.errors import DataError
from trainyard_api.names import ExitCode, PodEnvironment, Reason
from trainyard_api.policy.failure import ProcessEnd
from trainyard_api.progress import ExitRecord
from trainyard_api.redact import redact
from trainyard_api.status import ModelStatus
from trainyard_trainer.node import RankLogs, end_of_node, first_rank
from trainyard_trainer.pod import MAXIMUM_MESSAGE_BYTES, explained, fitting, is_in_pod, leave_message

TIME = "2026-11-25T00:00:00Z"


@pytest.fixture
def message_file(tmp_path):
    file = tmp_path / "termination-log"
    file.touch()
    return file


@pytest.fixture
def pod(message_file):
    """The environment of a pod."""
    return {PodEnvironment.POD_NAME: "pod-0", PodEnvironment.TERMINATION_LOG: str(message_file)}


def record(**changes):
    values = {"rank": 1, "exit_code": 65, "reason": Reason.INVALID_DATA, "message": "why", "time": TIME}
    return ExitRecord(**(values | changes))


def test_the_record_is_the_termination_message(pod, message_file):
    leave_message(record(log_tail="last line"), pod)
    assert ExitRecord.model_validate_json(message_file.read_bytes()) == record(log_tail="last line")


def test_the_status_of_an_exported_model_is_the_termination_message(pod, message_file):
    status = ModelStatus(uri="file:///data/runs/a/model", parameters=5)
    leave_message(status, pod)
    assert ModelStatus.model_validate_json(message_file.read_bytes()) == status


def test_nothing_is_written_where_there_is_no_pod(message_file):
    leave_message(record(), {PodEnvironment.TERMINATION_LOG: str(message_file)})
    assert message_file.read_text() == ""
    assert not is_in_pod({PodEnvironment.POD_NAME: ""})


def test_a_message_that_cannot_be_written_is_said_and_passed_over(pod, tmp_path, capsys):
    leave_message(record(), {**pod, PodEnvironment.TERMINATION_LOG: str(tmp_path / "no" / "file")})
    assert "the termination message could not be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    "changes",
    [
        {"log_tail": "a line of the log\n" * 1000},
        {"log_tail": "one line " * 1000},
        {"log_tail": "\u00e9\u4e16\U0001f600" * 2000},
        {"log_tail": '"\\\n' * 3000},
        {"message": "m" * 9000},
        {"message": "m" * 9000, "log_tail": "t" * 9000},
        {"message": '"' * 9000},
        {"message": "half a character: \ud800 " * 300},
        {"log_tail": "\x1b[31mred\x1b[0m\r\x00" * 1000},
    ],
)
def test_a_message_always_fits_and_is_whole_json(changes):
    text = fitting(record(**changes))
    parsed = ExitRecord.model_validate_json(text)
    assert len(text.encode()) <= MAXIMUM_MESSAGE_BYTES
    assert (parsed.rank, parsed.exit_code, parsed.reason) == (1, 65, Reason.INVALID_DATA)
    assert parsed.log_tail or parsed.message


def test_the_newest_whole_lines_of_the_log_are_kept():
    tail = "\n".join(f"step {number}" for number in range(1000))
    kept = ExitRecord.model_validate_json(fitting(record(log_tail=tail))).log_tail.splitlines()
    assert len(kept) > 200
    assert kept == [f"step {number}" for number in range(1000 - len(kept), 1000)]


SECRETS = {
    "URL with a password": "cannot read s3://user:hunter2hunter2@host/bucket",
    "URL with a token": "https://hunter2hunter2@github.example/x",
    "signed URL": "GET https://h/x?a=1&X-Amz-Signature=hunter2hunter2&b=2",
    "shared access": "https://h/c?sv=1&sig=hunter2hunter2",
    "bearer": "Authorization: Bearer hunter2hunter2",
    "JSON Web Token": "token was eyJhbGciOiJSUzI1NiJ9.hunter2hunter2.hunter2hunter2",
    "Hugging Face": "using hf_hunter2hunter2",
    "variable": "AWS_SECRET_ACCESS_KEY=hunter2hunter2",
    "quoted": "{'api_key': 'hunter2hunter2', 'x': 1}",
    "JSON": '{"password": "hunter2 hunter2", "x": 1}',
    "YAML": "token: hunter2hunter2",
    "private key": "-----BEGIN RSA PRIVATE KEY-----\nhunter2\nhunter2\n-----END RSA PRIVATE KEY-----\nafter",
    "private key without its beginning": "hunter2hunter2\nhunter2==\n-----END EC PRIVATE KEY-----\n",
    "private key that is cut": "-----BEGIN PRIVATE KEY-----\nhunter2\n",
}


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_are_blacked_out(name):
    clean = redact(SECRETS[name])
    assert "hunter2" not in clean
    assert "[redacted]" in clean
    assert "hunter2" not in fitting(record(message=SECRETS[name], log_tail=SECRETS[name]))


@pytest.mark.parametrize(
    "text",
    [
        "step 5 loss 2.5 learning rate 1e-3, 1,234 tokens/s",
        "file:///data/runs/speeches/checkpoints/step-5",
        "spec.data.sources[0].uri: https://host/path?page=2 was not found. Set another",
        "the tokenizer has 8192 tokens and no pad token",
        "RuntimeError: Connection closed by peer [127.0.0.1]:29500",
    ],
)
def test_what_is_no_secret_stays(text):
    assert redact(text) == text


def test_a_known_error_is_explained_without_a_traceback(pod, message_file):
    with pytest.raises(DataError), explained(pod, rank=2):
        raise DataError("spec.data.sources[0].uri", "no such file", "Correct it")
    left = ExitRecord.model_validate_json(message_file.read_bytes())
    assert (left.rank, left.exit_code, left.reason) == (2, ExitCode.INVALID_DATA, Reason.INVALID_DATA)
    assert (left.message, left.log_tail) == ("spec.data.sources[0].uri: no such file. Correct it", "")


def test_an_unforeseen_error_is_explained_with_its_place(pod, message_file):
    with pytest.raises(ZeroDivisionError), explained(pod):
        raise ZeroDivisionError("by zero")
    left = ExitRecord.model_validate_json(message_file.read_bytes())
    assert left.exit_code == ExitCode.INTERNAL_ERROR
    assert "test_pod.py" in left.log_tail


def test_a_stop_before_there_was_anything_to_save_is_explained(pod, message_file):
    with pytest.raises(SystemExit), explained(pod):
        sys.exit(ExitCode.PREEMPTED)
    assert ExitRecord.model_validate_json(message_file.read_bytes()).reason == Reason.PREEMPTED


def test_an_end_in_order_leaves_no_message(pod, message_file):
    with explained(pod):
        pass
    assert message_file.read_text() == ""


def test_a_node_tells_of_the_rank_that_failed_first_with_its_log(tmp_path):
    (tmp_path / "rank-3.log").write_text("start\nkilled here\n")
    ends = [
        ProcessEnd(exit_code=75, ended_at=100.0, rank=2, record=record(rank=2, exit_code=75)),
        ProcessEnd(exit_code=-9, ended_at=100.0, rank=3),
    ]
    told = end_of_node(ends, tmp_path, 137)
    assert (told.rank, told.exit_code, told.reason) == (3, 137, Reason.PROCESS_KILLED)
    assert told.log_tail == "start\nkilled here"


def test_a_node_whose_ranks_were_told_to_stop_tells_that(tmp_path):
    own = record(rank=0, exit_code=80, reason=Reason.PREEMPTED, message="", step=5)
    told = end_of_node([ProcessEnd(exit_code=80, ended_at=1.0, rank=0, record=own)], tmp_path, 80)
    assert (told.exit_code, told.reason, told.step) == (80, Reason.PREEMPTED, 5)


def test_ranks_are_counted_over_the_nodes():
    assert first_rank({"PET_NODE_RANK": "3", "PET_NPROC_PER_NODE": "4"}) == 12


@pytest.mark.parametrize(("shown", "expected"), [(False, {}), (True, {0: "rank-4.log", 1: "rank-5.log"})])
def test_the_output_of_ranks_goes_to_files_and_in_a_pod_to_the_containers_log_too(tmp_path, shown, expected):
    logs = RankLogs(tmp_path, shown=shown).reify({0: {"RANK": "4"}, 1: {"RANK": "5"}})
    assert {local: Path(file).name for local, file in logs.stdouts.items()} == {
        0: "rank-4.log",
        1: "rank-5.log",
    }
    assert {local: Path(file).name for local, file in logs.tee_stdouts.items()} == expected


FIRST_PROCESS = """
import os, subprocess, sys, time
from trainyard_trainer.init_process import continue_in_child_of_init
continue_in_child_of_init()
assert os.getpid() != 1
{body}
"""
CAN_UNSHARE = (
    sys.platform.startswith("linux")
    and subprocess.run(
        ["unshare", "--pid", "--fork", "--kill-child", "true"], capture_output=True, check=False
    ).returncode
    == 0
)
needs_namespaces = pytest.mark.skipif(not CAN_UNSHARE, reason="needs root, for a PID namespace")


def in_namespace(body):
    """A program whose first process is process 1 of a namespace of its own."""
    return subprocess.Popen(
        ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-c", FIRST_PROCESS.format(body=body)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )


def first_process(unshare):
    """Number, outside of the namespace, of its process 1."""
    children = Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children").read_text().split()
    return int(children[0])


@needs_namespaces
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("sys.exit(0)", 0),
        ("sys.exit(65)", 65),
        ("os.kill(os.getpid(), 9)", 137),
        ("raise SystemExit('text')", 1),
    ],
)
def test_process_1_ends_with_the_exit_code_of_the_command(body, expected):
    with in_namespace(body) as process:
        process.communicate(timeout=60)
    assert process.returncode == expected


@needs_namespaces
def test_a_stop_reaches_a_command_that_has_no_handler_yet():
    with in_namespace("print('up', flush=True); time.sleep(60)") as process:
        assert process.stdout.readline() == "up\n"
        os.kill(first_process(process), signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM


@needs_namespaces
def test_a_stop_reaches_the_handler_of_the_command():
    body = (
        "import signal\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(80))\n"
        "print('up', flush=True)\ntime.sleep(60)"
    )
    with in_namespace(body) as process:
        assert process.stdout.readline() == "up\n"
        os.kill(first_process(process), signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == ExitCode.PREEMPTED


@needs_namespaces
def test_ctrl_c_in_a_terminal_reaches_the_command_once(tmp_path):
    import pty

    body = (
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})\n"
        "print('up', flush=True)\n"
        "first = signal.sigtimedwait({signal.SIGINT}, 60)\n"
        "second = signal.sigtimedwait({signal.SIGINT}, 0.5)\n"
        "print('received', first is not None, second is not None, flush=True)"
    )
    command = [
        "unshare",
        "--pid",
        "--fork",
        "--kill-child",
        sys.executable,
        "-c",
        FIRST_PROCESS.format(body=body),
    ]
    process, terminal = pty.fork()
    if process == 0:
        os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        os.execvp(command[0], command)  # noqa: S606 - a fixed list
    with os.fdopen(terminal, "r+b", buffering=0) as screen:
        shown = b""
        while b"up" not in shown:
            shown += screen.read(100)
        screen.write(b"\x03")
        while b"received" not in shown or not shown.endswith(b"\n"):
            shown += screen.read(100)
    os.waitpid(process, 0)
    assert b"received True False" in shown


@needs_namespaces
def test_process_1_reaps_orphans():
    body = (
        'orphan = "import os; os.fork() or os._exit(0)"\n'
        "for _ in range(5):\n"
        "    subprocess.run([sys.executable, '-S', '-c', orphan])\n"
        "deadline = time.monotonic() + 30\n"
        "pids = lambda: [p for p in range(2, 200) if p != os.getpid() and exists(p)]\n"
        "def exists(p):\n"
        "    try: os.kill(p, 0)\n"
        "    except ProcessLookupError: return False\n"
        "    return True\n"
        "while pids() and time.monotonic() < deadline: time.sleep(0.01)\n"
        "print(pids())"
    )
    with in_namespace(body) as process:
        output, _ = process.communicate(timeout=60)
    assert output == "[]\n"


@needs_namespaces
def test_the_command_of_a_container_takes_a_stop_while_it_still_loads(tmp_path):
    arguments = [sys.executable, "-m", "trainyard_trainer", "node", "--plan", str(tmp_path / "missing.json")]
    with subprocess.Popen(
        ["unshare", "--pid", "--fork", "--kill-child", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while not children.read_text().split():
            os.sched_yield()
        first = first_process(process)
        status = Path(f"/proc/{first}/task/{first}/children")
        while not status.read_text().split():
            os.sched_yield()
        os.kill(first, signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode in (128 + signal.SIGTERM, ExitCode.PREEMPTED)


def test_a_process_that_is_not_the_first_goes_on_at_once():
    done = subprocess.run(
        [sys.executable, "-c", FIRST_PROCESS.format(body="print(os.getppid())")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == os.getpid()
