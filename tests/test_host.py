"""CPUs that the machine grants, and what systemd is told."""

from __future__ import annotations

import math
import os
import socket
import sys
from pathlib import Path

import pytest

from aigw.host import AUTO_WORKERS_MOST, Notifier, cpu_quota, worker_count


def machine(root: Path, groups: str, **files: str) -> Path:
    """A root with /proc/self/cgroup and files below /sys/fs/cgroup (`__` stands for `/`)."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        file = root / "sys/fs/cgroup" / name.replace("__", "/").replace("_max", ".max")
        file = file.with_name(file.name.replace("cfs_", "cpu.cfs_"))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        ("0::/\n", {}, math.inf),
        ("0::/a\n", {"a__cpu_max": "max 100000"}, math.inf),
        ("0::/a\n", {"a__cpu_max": "150000 100000"}, 1.5),
        ("0::/a/b\n", {"a__cpu_max": "50000 100000", "a__b__cpu_max": "max 100000"}, 0.5),
        ("0::/a/b\n", {"a__cpu_max": "300000 100000", "a__b__cpu_max": "200000 100000"}, 2),
        ("0::/of/the/host\n", {"cpu_max": "200000 100000"}, 2),
        ("0::/a\n", {"a__cpu_max": "nonsense"}, math.inf),
        ("3:cpu:/\n0::/\n", {"cpu__cfs_quota_us": "-1", "cpu__cfs_period_us": "100000"}, math.inf),
        ("3:cpu:/a\n", {"cpu__a__cfs_quota_us": "250000", "cpu__a__cfs_period_us": "100000"}, 2.5),
        (
            "3:cpu,cpuacct:/\n",
            {"cpu,cpuacct__cfs_quota_us": "1", "cpu,cpuacct__cfs_period_us": "2"},
            0.5,
        ),
        ("3:cpuset:/\n", {"cpuset__cfs_quota_us": "1", "cpuset__cfs_period_us": "2"}, math.inf),
    ],
)
def test_the_quota_of_control_groups(
    tmp_path: Path, groups: str, files: dict[str, str], quota: float
) -> None:
    assert cpu_quota(machine(tmp_path, groups, **files)) == quota


def test_without_control_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) == math.inf


def test_a_configured_number_of_workers_stands(tmp_path: Path) -> None:
    assert worker_count(64, tmp_path) == 64


@pytest.mark.skipif(sys.platform != "linux", reason="auto is 1 elsewhere")
@pytest.mark.parametrize(
    ("cpus", "quota", "workers"),
    [
        (1, "max", 1),
        (4, "max", 4),
        (64, "max", AUTO_WORKERS_MOST),
        (4, "150000", 2),
        (4, "1000", 1),
    ],
)
def test_automatic_number_of_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpus: int, quota: str, workers: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)))
    root = machine(tmp_path, "0::/\n", cpu_max=f"{quota} 100000")
    assert worker_count("auto", root) == workers


def test_notifications_go_to_the_socket_that_is_named(tmp_path: Path) -> None:
    for path in (f"{tmp_path}/notify", *(["@aigw-test-notify"] if sys.platform == "linux" else [])):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
            supervisor.bind(path.replace("@", "\0"))
            supervisor.settimeout(20)
            environ = {"NOTIFY_SOCKET": path}
            notifier = Notifier(environ)
            assert environ == {}, "children must not speak for the master"
            notifier.ready("serving")
            assert supervisor.recv(100) == b"READY=1\nSTATUS=serving"


def test_a_lost_reload_is_ended_for_systemd(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(f"{tmp_path}/notify")
        supervisor.settimeout(20)
        notifier = Notifier({"NOTIFY_SOCKET": f"{tmp_path}/notify"})
        notifier.reload_lost()
        notifier.reloading()
        assert supervisor.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        notifier.reload_lost()
        assert supervisor.recv(100).startswith(b"READY=1\n")


def test_nobody_to_notify_is_no_fault(tmp_path: Path) -> None:
    Notifier({}).ready("serving")
    Notifier({"NOTIFY_SOCKET": f"{tmp_path}/gone"}).ready("serving")
