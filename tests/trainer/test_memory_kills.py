"""Kills for memory, told from kills by people: the kernel's counters, and whom they concern."""

import signal

import pytest

from trainyard_api.names import Reason
from trainyard_api.policy.failure import ProcessEnd, first_failure
from trainyard_trainer.exit_records import exit_record_path, read_exit_record
from trainyard_trainer.memory_kills import count_memory_kills, with_memory_kills
from trainyard_trainer.node import leave_evidence

EVENTS = "low 0\nhigh 0\nmax 7\noom 3\noom_kill {}\noom_group_kill 0\n"
CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"


def write(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


@pytest.mark.parametrize(
    ("files", "count"),
    [
        ({}, None),
        ({"proc/vmstat": "nr_free_pages 1\noom_kill 4\n"}, 4),
        (
            {
                "proc/self/cgroup": "0::/user.slice/run\n",
                "sys/fs/cgroup/user.slice/run/memory.events": EVENTS.format(2),
                "proc/vmstat": "oom_kill 9\n",
            },
            2,
        ),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.events": EVENTS.format(1)}, 1),
        ({"proc/self/cgroup": "0::/\n", "proc/vmstat": "oom_kill 9\n"}, 9),
        (
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/pod/one\n0::/\n",
                "sys/fs/cgroup/memory/pod/one/memory.oom_control": CONTROL.format(3),
            },
            3,
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/pod/seen-from-outside\n",
                "sys/fs/cgroup/memory/memory.oom_control": CONTROL.format(6),
            },
            6,
        ),
    ],
    ids=["nothing", "machine", "group", "container", "root group", "version 1", "version 1 in a container"],
)
def test_the_narrowest_counter_of_the_machine_counts(files, count, tmp_path):
    write(tmp_path, files)
    assert count_memory_kills(tmp_path) == count


@pytest.mark.parametrize(
    ("ends", "before", "after", "marked"),
    [
        ([(-9, 1.0, False)], 4, 5, [True]),
        ([(137, 1.0, False)], 4, 5, [True]),
        ([(-9, 1.0, False)], 4, 4, [False]),
        ([(-9, 1.0, False)], None, 5, [False]),
        ([(-9, 1.0, False)], 4, None, [False]),
        ([(-9, 2.0, False), (-9, 1.0, False)], 4, 5, [False, True]),
        ([(-9, 2.0, False), (-9, 1.0, False)], 4, 6, [True, True]),
        ([(-9, 1.0, True), (75, 1.0, False), (-15, 1.0, False)], 4, 9, [False, False, False]),
    ],
)
def test_as_many_killed_processes_are_marked_as_the_kernel_killed_for_memory(ends, before, after, marked):
    listed = [ProcessEnd(exit_code=code, ended_at=at, stopped=stopped) for code, at, stopped in ends]
    assert [end.out_of_memory for end in with_memory_kills(listed, before, after)] == marked


def test_what_the_agent_says_of_a_rank_that_was_killed_for_memory_reaches_the_runner(tmp_path):
    killed = ProcessEnd(exit_code=-signal.SIGKILL, ended_at=5.0, rank=1)
    leave_evidence(with_memory_kills([killed], 0, 1), tmp_path)
    record = read_exit_record(exit_record_path(tmp_path, 1))
    failure = first_failure([ProcessEnd(exit_code=137, ended_at=5.0, rank=1, record=record)])
    assert failure.reason == Reason.OUT_OF_MEMORY
    assert "lower microBatchSize" in failure.message
