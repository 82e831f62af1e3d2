"""A full disk: publishes are refused with `unavailable`, everything else goes on, and room lets them in again."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.node import Node, wait_for
from harness.rest import Refused, Rest

MIB = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs takes root")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=192m", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.fixture
def full_node(gem_bin: Path, small_disk: Path, tmp_path: Path) -> Iterator[Node]:
    config = tmp_path / "gem.toml"
    config.write_text('journal_file_size = "4MiB"\njournal_limit = "1GiB"\ndisk_reserve = "32MiB"\nmax_batch = "2MiB"\n')
    node = Node(gem_bin, small_disk / "data", "--config", str(config))
    node.log = tmp_path / "node.log"
    node.start()
    yield node
    node.stop_hard()


def publish_until_refused(rest: Rest, topic: str) -> tuple[int, Refused]:
    pad = "x" * 100_000
    for number in range(5000):
        try:
            results = rest.publish(topic, [{"payload": pad} for _ in range(10)])
        except Refused as refused:
            return number, refused
        failed = [r for r in results if "error" in r]
        if failed:
            assert failed[0]["error"]["code"] == "unavailable", failed[0]
            again = rest.call("POST", f"/v1/topics/{topic}/messages", b"x" * 100_000)
            return number, Refused(again)
    raise AssertionError("5 GB fit into 192 MiB")


def others_go_on(rest: Rest, topic: str) -> None:
    """Reads, pulls, acks while publishes are refused."""
    page = rest.call("GET", f"/v1/topics/{topic}/messages?from=earliest&limit=3").json()
    assert len(page["messages"]) == 3
    messages = rest.pull(topic, "g", max=3, wait_ms=5000)
    assert len(messages) == 3
    assert rest.settle("ack", topic, "g", [m["ack_token"] for m in messages]) == ["acked"] * 3


def publishes_again(rest: Rest, topic: str) -> bool:
    try:
        return "offset" in rest.publish(topic, [{"payload": "after"}])[0]
    except Refused as refused:
        assert refused.code == "unavailable", refused
        return False


def test_a_disk_that_gem_fills(full_node: Node) -> None:
    rest = Rest(full_node.url)
    batches, refused = publish_until_refused(rest, "big")
    assert refused.code == "unavailable", refused
    assert refused.answer.status == 503 and "retry-after" in refused.answer.headers
    others_go_on(rest, "big")
    stored = rest.call("GET", "/v1/topics/big").json()["messages"]
    assert stored >= 10 * batches
    full_node.kill()
    full_node.start()
    rest = Rest(full_node.url)
    assert rest.call("GET", "/v1/topics/big").json()["messages"] == stored
    assert rest.call("POST", "/v1/topics/big/purge").status == 204
    wait_for(lambda: publishes_again(rest, "big"), 60, "publishing after the purge")


def test_a_disk_that_a_foreign_file_fills(full_node: Node, small_disk: Path) -> None:
    rest = Rest(full_node.url)
    rest.publish("t", [{"payload": "x" * 1000} for _ in range(100)])
    foreign = small_disk / "foreign"
    available = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    with foreign.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, available - 30 * MIB)
    _, refused = publish_until_refused(rest, "t")
    assert refused.code == "unavailable", refused
    others_go_on(rest, "t")
    foreign.unlink()
    wait_for(lambda: publishes_again(rest, "t"), 60, "publishing after the foreign file went")
