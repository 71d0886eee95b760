"""The controller in the test's own loop: real pipes, real admin listener, workers that only ack."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop
from conversation import PATIENCE_S

from aigw import controller
from aigw.config import Settings, load
from aigw.controller import Controller, ControllerChild, run_controller
from aigw.memory import Memory, WorkerState
from aigw.policy import Policy, compile_policy, load_policy

FILE = """
[listen]
address = "127.0.0.1:18080"
admin = "127.0.0.1:18081"
workers = 2
admin_token = "{token}"
[log]
level = "info"
[[keys]]
name = "user1"
key = "user1"
rps = {rps}
[[upstreams]]
name = "openai"
urls = ["http://127.0.0.1:{port}"]
credentials = "client"
{health}
[[routes]]
path = "/v1"
targets = [{{ upstream = "openai" }}]
"""
HEALTH = 'health = { path = "", interval = "10ms", timeout = "500ms", rise = 1, fall = 1 }'


class House:
    """A master and two workers as far as a controller can see them."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "gateway.toml"
        self.write()
        self.memory = Memory.create(2)
        settings = self.load()
        self.memory.policy.publish(compile_policy(settings, self.memory, time.monotonic()))
        self.memory.used = 2
        for index in range(2):
            worker = self.memory.workers[index]
            worker.life, worker.acked_version, worker.state = 77 + index, 1, WorkerState.SERVING
        self.admin = socket.create_server(("127.0.0.1", 0))
        self.place = self.admin.getsockname()
        self.commands, self.master = os.pipe()
        self.reports, self.report = os.pipe()
        self.deaf: set[int] = set()
        self.child = ControllerChild(
            memory=self.memory,
            admin=self.admin,
            listen=settings.listen,
            commands=self.commands,
            report=self.report,
            reload=self.load,
        )

    def write(
        self, rps: object = 10, token: str = "", health: str = "", port: int = 9, more: str = ""
    ) -> None:
        text = FILE.format(rps=rps, token=token, health=health, port=port)
        self.file.write_text(text + more)

    def load(self) -> Settings:
        return load(self.file, {})

    @property
    def policy(self) -> Policy:
        return load_policy(self.memory.policy.read()[1])

    def command(self, line: str) -> None:
        os.write(self.master, f"{line}\n".encode())

    async def reported(self) -> list[str]:
        """The next lines that the controller reports."""
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_reader(self.reports, ready.set)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await ready.wait()
        finally:
            loop.remove_reader(self.reports)
        return os.read(self.reports, 4096).decode().splitlines()

    async def ask(self, method: str, path: str, token: str = "") -> tuple[int, bytes]:
        reader, writer = await asyncio.open_connection(*self.place)
        authorization = f"Authorization: Bearer {token}\r\n" if token else ""
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        try:
            writer.write(f"{head}{authorization}\r\n".encode())
            raw = await asyncio.wait_for(reader.read(), PATIENCE_S)
        finally:
            writer.close()
            await writer.wait_closed()
        answer, _, body = raw.partition(b"\r\n\r\n")
        return int(answer.split()[1]), body

    async def acknowledge(self) -> None:
        """What the workers' sweepers do."""
        while True:
            for index in {0, 1} - self.deaf:
                self.memory.workers[index].acked_version = self.memory.policy.version
            await asyncio.sleep(0.005)


def run(tmp_path: Path, scenario: Callable[[House], Awaitable[None]], **written: object) -> None:
    """Run a scenario beside a controller; at its end the pipe ends, and so must the controller."""
    house = House(tmp_path)
    if written:
        house.write(**written)  # type: ignore[arg-type]
        house.memory.policy.publish(compile_policy(house.load(), house.memory, time.monotonic()))

    async def main() -> None:
        workers = asyncio.create_task(house.acknowledge())
        running = asyncio.create_task(Controller(house.child).run())
        try:
            await scenario(house)
            os.close(house.master)
            async with asyncio.timeout(PATIENCE_S):
                await running
        finally:
            workers.cancel()
            running.cancel()
            await asyncio.gather(workers, running, return_exceptions=True)

    try:
        uvloop.run(main())
    finally:
        house.admin.close()
        os.close(house.reports)
        os.close(house.report)


async def metric(house: House, line: str) -> bool:
    status, body = await house.ask("GET", "/metrics")
    assert status == 200
    return line in body.decode().splitlines()


def test_a_command_reloads(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        house.write(rps=20)
        house.command("reload")
        assert await house.reported() == ["reloaded"]
        assert house.memory.policy.version == 2
        (key,) = house.policy.keys.values()
        assert key.bucket is not None
        assert key.bucket.rate_per_s == 20
        assert await metric(house, 'aigw_reloads_total{result="ok"} 1.0')
        assert await metric(house, "aigw_policy_version 2.0")

    run(tmp_path, scenario)


def test_a_post_reloads_and_tells_who_has_taken_it(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        status, body = await house.ask("POST", "/reload")
        assert status == 200
        assert json.loads(body) == {"version": 2, "acknowledged": [0, 1], "late": []}
        assert await house.reported() == ["reloaded"]

    run(tmp_path, scenario)


def test_a_broken_file_changes_nothing_and_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(house: House) -> None:
        before = house.policy, house.memory.rows.live()
        house.write(more='[nonsense]\nwhat = "ever"\n')
        status, body = await house.ask("POST", "/reload")
        told = json.loads(body)
        assert status == 400
        assert "nonsense" in told["error"]["message"]
        assert any("gateway.toml:" in problem for problem in told["problems"])
        assert await house.reported() == ["reload-failed"]
        assert (house.policy, house.memory.rows.live()) == before
        assert house.memory.policy.version == 1
        assert await metric(house, 'aigw_reloads_total{result="failed"} 1.0')

    run(tmp_path, scenario)
    assert "nothing reloaded" in caplog.text


@pytest.mark.parametrize(
    ("old", "new", "option"),
    [
        ("127.0.0.1:18080", "127.0.0.1:18082", "listen.address"),
        ("127.0.0.1:18081", "127.0.0.1:18083", "listen.admin"),
        ("workers = 2", "workers = 3", "listen.workers"),
        ("workers = 2", "workers = 2\nbacklog = 5", "listen.backlog"),
        ("workers = 2", 'workers = 2\nsend_buffer = "64KiB"', "listen.send_buffer"),
        ("workers = 2", 'workers = 2\nreceive_buffer = "64KiB"', "listen.receive_buffer"),
    ],
)
def test_what_was_bound_at_the_start_is_refused_by_name(
    tmp_path: Path, old: str, new: str, option: str
) -> None:
    async def scenario(house: House) -> None:
        house.file.write_text(house.file.read_text().replace(old, new))
        status, body = await house.ask("POST", "/reload")
        assert status == 400
        (problem,) = json.loads(body)["problems"]
        assert problem.startswith(f"{option}:")
        assert problem.endswith(": this needs a restart")
        assert "(" not in problem
        assert house.memory.policy.version == 1

    run(tmp_path, scenario)


def test_the_admin_token_is_reloaded(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        house.write(token="n3w")
        assert (await house.ask("POST", "/reload"))[0] == 200
        assert (await house.ask("GET", "/metrics"))[0] == 401
        assert (await house.ask("GET", "/metrics", "n3w"))[0] == 200
        assert (await house.ask("GET", "/health/live"))[0] == 200

    run(tmp_path, scenario)


def test_a_worker_that_is_late_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller, "ACKNOWLEDGE_S", 0.1)

    async def scenario(house: House) -> None:
        house.deaf.add(1)
        _, body = await house.ask("POST", "/reload")
        assert json.loads(body) == {"version": 2, "acknowledged": [0], "late": [1]}
        assert await house.reported() == ["retire 1", "reloaded"]

    run(tmp_path, scenario)


@pytest.mark.parametrize("how", ["drains", "is replaced"])
def test_a_worker_that_ends_meanwhile_need_not_acknowledge(tmp_path: Path, how: str) -> None:
    async def scenario(house: House) -> None:
        house.deaf.add(1)
        reload = asyncio.create_task(house.ask("POST", "/reload"))
        while house.memory.policy.version < 2:
            await asyncio.sleep(0.001)
        if how == "drains":
            house.memory.workers[1].state = WorkerState.DRAINING
        else:
            house.memory.workers[1].life = 4711
        _, body = await reload
        assert json.loads(body)["late"] == []
        assert await house.reported() == ["reloaded"]

    run(tmp_path, scenario)


def test_reloads_at_the_same_time_follow_each_other(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        answers = await asyncio.gather(*(house.ask("POST", "/reload") for _ in range(4)))
        assert sorted(json.loads(body)["version"] for _, body in answers) == [2, 3, 4, 5]

    run(tmp_path, scenario)


def test_the_rows_of_what_is_gone_are_given_up_when_all_have_acknowledged(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        (old,) = house.memory.rows.live()
        for rps in (1, 2, 3, 4):
            house.write(rps=rps)
            assert (await house.ask("POST", "/reload"))[0] == 200
        (key,) = house.policy.keys.values()
        assert key.bucket is not None
        assert house.memory.rows.live() == [key.bucket.row]
        assert house.memory.control.row_high_water <= old + 3

    run(tmp_path, scenario)


def test_the_listener_answers_while_a_reload_reads(tmp_path: Path) -> None:
    reading, go_on = threading.Event(), threading.Event()

    async def scenario(house: House) -> None:
        plain = house.load

        def slow() -> Settings:
            reading.set()
            assert go_on.wait(5)
            return plain()

        object.__setattr__(house.child, "reload", slow)
        reload = asyncio.create_task(house.ask("POST", "/reload"))
        assert await asyncio.to_thread(reading.wait, 5)
        assert (await house.ask("GET", "/health/live"))[0] == 200
        go_on.set()
        assert (await reload)[0] == 200

    run(tmp_path, scenario)


def test_a_reload_that_breaks_is_told_and_survived(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(house: House) -> None:
        object.__setattr__(house.child, "reload", lambda: 1 // 0)
        status, body = await house.ask("POST", "/reload")
        assert status == 400
        assert "internal error" in json.loads(body)["problems"][0]
        assert await house.reported() == ["reload-failed"]

    run(tmp_path, scenario)
    assert "ZeroDivisionError" in caplog.text


def test_nothing_is_reloaded_while_draining(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        house.memory.control.draining = 1
        status, body = await house.ask("POST", "/reload")
        assert status == 400
        assert "draining" in json.loads(body)["problems"][0]
        assert await house.ask("GET", "/health/ready") == (503, b"draining\n")

    run(tmp_path, scenario)


def test_ready_needs_a_worker_that_serves(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        assert (await house.ask("GET", "/health/ready"))[0] == 200
        house.memory.workers[0].state = WorkerState.STARTING
        assert (await house.ask("GET", "/health/ready"))[0] == 200
        house.memory.workers[1].state = WorkerState.DRAINING
        assert await house.ask("GET", "/health/ready") == (503, b"no worker is serving\n")

    run(tmp_path, scenario)


def test_stop_is_passed_to_the_master(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        assert (await house.ask("POST", "/stop"))[0] == 202
        assert await house.reported() == ["stop"]

    run(tmp_path, scenario)


def test_restarts_of_workers_are_counted(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        for line in ("restarted hung", "reopen", "restarted hung", "no such", "restarted", ""):
            house.command(line)
        while not await metric(house, 'aigw_worker_restarts_total{reason="hung"} 2.0'):
            pass
        assert (await house.ask("GET", "/health/live"))[0] == 200

    run(tmp_path, scenario)


def test_a_successor_goes_on_from_memory_and_does_not_read_the_file(tmp_path: Path) -> None:
    house = House(tmp_path)

    async def main() -> None:
        for count in (1, 2):
            commands, house.master = os.pipe()
            admin = socket.create_server(("127.0.0.1", 0))
            house.place = admin.getsockname()
            child = ControllerChild(
                house.memory, admin, house.child.listen, commands, house.report, house.load
            )
            workers = asyncio.create_task(house.acknowledge())
            running = asyncio.create_task(Controller(child).run())
            if count == 1:
                house.write(rps=30)
                assert (await house.ask("POST", "/reload"))[0] == 200
                house.file.write_text("broken [")
            assert (await house.ask("POST", "/reload"))[0] == 400
            assert await metric(house, f'aigw_reloads_total{{result="failed"}} {count}.0')
            assert await metric(house, 'aigw_reloads_total{result="ok"} 1.0')
            (key,) = house.policy.keys.values()
            assert key.bucket is not None
            assert key.bucket.rate_per_s == 30
            os.close(house.master)
            await running
            workers.cancel()
            await asyncio.gather(workers, return_exceptions=True)
            admin.close()

    try:
        uvloop.run(main())
    finally:
        house.admin.close()
        for fd in (house.reports, house.report, house.commands):
            os.close(fd)


def test_a_member_that_is_out_stays_out_over_a_reload(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]

    async def scenario(house: House) -> None:
        async def state() -> tuple[object, object]:
            (upstream,) = json.loads((await house.ask("GET", "/upstreams"))[1])["upstreams"]
            (member,) = upstream["members"]
            assert member["member"] == f"127.0.0.1:{port}"
            return member["state"], member["active_health"]

        while await state() != ("out", "out"):
            pass
        house.write(rps=3, health=HEALTH, port=port)
        assert (await house.ask("POST", "/reload"))[0] == 200
        assert await state() == ("out", "out")
        line = f'aigw_upstream_state{{member="127.0.0.1:{port}",upstream="openai"}} 2.0'
        assert await metric(house, line)
        (member,) = house.policy.upstreams[0].members
        assert house.memory.health.is_out(member.health_row, time.monotonic_ns())
        # Without checks nobody says any more that it is out.
        house.write(port=port)
        assert (await house.ask("POST", "/reload"))[0] == 200
        assert await state() == ("healthy", None)
        assert not house.memory.health.is_out(member.health_row, time.monotonic_ns())

    run(tmp_path, scenario, health=HEALTH, port=port)


def test_the_end_of_the_pipe_ends_the_process(tmp_path: Path) -> None:
    house = House(tmp_path)
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            os.close(house.master)
            status = run_controller(house.child)
        finally:
            os._exit(status)
    os.close(house.commands)
    try:
        os.close(house.master)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        house.admin.close()
        for fd in (house.reports, house.report):
            os.close(fd)
