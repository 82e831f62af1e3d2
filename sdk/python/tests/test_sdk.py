"""The Python SDK against a live node."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import gem
from harness.node import Node, wait_for

SDK = Path(__file__).parents[1]

SUBSCRIBER = """
import gem

def handle_message(msg):
    print(f"Received: {msg}", flush=True)
gem.subscribe(topic="orders", callback=handle_message)
"""

PUBLISHER = """
import gem

gem.publish(topic="orders", message={"order_id": 123, "status": "shipped"})
"""


def run_python(code: str, node: Node, **kwargs):  # type: ignore[no-untyped-def]
    env = {**os.environ, "GEM_URL": node.url, "PYTHONPATH": str(SDK)}
    return subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, **kwargs)


def test_the_contract_snippets(shared_node: Node) -> None:
    subscriber = run_python(SUBSCRIBER, shared_node)
    lines: list[bytes] = []
    assert subscriber.stdout is not None
    reader = threading.Thread(target=lambda: lines.append(subscriber.stdout.readline()), daemon=True)
    reader.start()
    try:
        deadline = time.monotonic() + 60
        while not lines and time.monotonic() < deadline:
            assert run_python(PUBLISHER, shared_node).wait(60) == 0
            reader.join(1)
        assert lines and b"Received: " in lines[0] and b"shipped" in lines[0], lines
    finally:
        subscriber.kill()
        subscriber.wait()


def test_receipts_flush_and_order(shared_node: Node) -> None:
    with gem.Client(shared_node.url) as client:
        receipts = [client.publish("receipts", {"n": n}, key="k") for n in range(5000)]
        client.flush(60)
        offsets = [r.result(0).offset for r in receipts]
        assert offsets == list(range(5000))
        first = client.publish("receipts", "x", id="mine").result(30)
        again = client.publish("receipts", "x", id="mine").result(30)
        assert (first.id, first.duplicate, again.duplicate) == ("mine", False, True)
        assert first.offset == again.offset


def test_a_failed_publish_is_never_silent(shared_node: Node) -> None:
    seen: list[gem.GemError] = []
    client = gem.Client(shared_node.url, on_error=seen.append)
    receipt = client.publish("bad name", b"x")
    with pytest.raises(gem.InvalidArgument):
        receipt.result(30)
    with pytest.raises(gem.InvalidArgument):
        client.flush(30)
    assert len(seen) == 1
    good = client.publish("good-name", b"x").result(30)
    assert good.offset == 0
    client.close()


def test_a_group_acks_nacks_and_dead_letters(shared_node: Node) -> None:
    with gem.Client(shared_node.url) as client:
        client.create_topic("jobs", max_deliveries=2)
        for n in range(10):
            client.publish("jobs", {"n": n})
        client.flush(30)
        done: list[int] = []
        failed: list[int] = []

        def work(message: gem.Message) -> None:
            n = message.json()["n"]
            if n == 3:
                failed.append(message.delivery)
                raise RuntimeError("cannot do this one")
            done.append(n)

        with client.subscribe("jobs", work, group="workers", concurrency=3, background=True):
            wait_for(lambda: len(done) >= 9 and len(failed) >= 2, 30, "all jobs")
        assert sorted(done) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
        assert failed == [1, 2]
        dead: list[gem.Message] = []
        with client.subscribe("jobs.workers.dlq", dead.append, from_="earliest", background=True):
            wait_for(lambda: dead, 30, "the dead letter")
        assert dead[0].json() == {"n": 3}


def test_leases_are_extended_while_a_callback_runs(shared_node: Node) -> None:
    with gem.Client(shared_node.url) as client:
        client.create_topic("slow", ack_timeout_ms=600)
        client.publish("slow", "x").result(30)
        deliveries: list[int] = []

        def work(message: gem.Message) -> None:
            deliveries.append(message.delivery)
            time.sleep(2.5)  # the work itself: longer than four leases

        with client.subscribe("slow", work, group="g", background=True):
            wait_for(lambda: deliveries, 30, "the first delivery")
        assert deliveries == [1]


def test_an_exception_ends_a_groupless_subscription(shared_node: Node) -> None:
    with gem.Client(shared_node.url) as client:
        client.publish("ends", "x").result(30)

        def work(message: gem.Message) -> None:
            raise KeyError(message.text())

        with pytest.raises(KeyError):
            client.subscribe("ends", work, from_="earliest")


def test_a_node_that_comes_back(gem_bin: Path, tmp_path: Path) -> None:
    node = Node(gem_bin, tmp_path / "data")
    node.start()
    try:
        with gem.Client(node.url) as client:
            seen: list[int] = []
            first = [client.publish("t", {"n": n}, key="k") for n in range(200)]
            with client.subscribe("t", lambda m: seen.append(m.json()["n"]), from_="earliest", background=True):
                wait_for(lambda: first[0].done(), 30)
                node.kill()
                second = [client.publish("t", {"n": n}, key="k") for n in range(200, 400)]
                node.start()
                offsets = [r.result(60).offset for r in first + second]
                assert offsets == sorted(offsets) and len(set(offsets)) == 400
                wait_for(lambda: len(seen) >= 400, 60, "every message")
            assert seen == list(range(400))
    finally:
        node.stop_hard()


def test_the_wheel_builds_and_installs(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(SDK)],
        check=True, capture_output=True, timeout=300,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("gem_mesh-*.whl")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(tmp_path / "site"), str(wheel)],
        check=True, timeout=300,
    )  # fmt: skip
    shown = subprocess.run(
        [sys.executable, "-c", "import gem; print(gem.__file__)"],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")}, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert str(tmp_path / "site") in shown.stdout
