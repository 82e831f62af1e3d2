"""Memory, disk and directories: what the node promises of its own footprint."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from pathlib import Path

import grpc
import pytest

from gem.v1 import subscriber_pb2
from harness.node import Node, wait_for
from harness.rest import Rest

MIB = 1 << 20


def bench(node: Node, *args: str) -> dict[str, float]:
    out = subprocess.run(
        [str(node.gem_bin), "bench", *args, "--url", node.url, "--json"], check=True, capture_output=True, timeout=240
    )
    result: dict[str, float] = json.loads(out.stdout)
    assert result["errors"] == 0, result
    return result


def peak_resident_bytes(node: Node) -> int:
    for line in Path(f"/proc/{node.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM in /proc/PID/status")


def test_four_times_the_memory_budget_is_published(gem_bin: Path, tmp_path: Path) -> None:
    budget = 128 * MIB
    node = Node(gem_bin, tmp_path / "data", "--memory", "128MiB")
    node.start()
    try:
        bench(node, "publish", "--topic", "big", "--size", "1KiB", "--messages", str(4 * budget // 1024), "--batch", "100")
        peak = peak_resident_bytes(node)
        print(f"\npublished {4 * budget // MIB} MiB with {peak / MIB:.0f} MiB resident at most, budget {budget // MIB} MiB")
        assert peak < 1.5 * budget, f"{peak / MIB:.0f} MiB resident"
        assert Rest(node.url).call("GET", "/v1/topics/big").json()["messages"] == 4 * budget // 1024
    finally:
        node.stop_hard()


def test_a_quiet_topic_beside_a_fast_one_keeps_its_messages_and_no_more_disk(gem_bin: Path, tmp_path: Path) -> None:
    config = tmp_path / "gem.toml"
    config.write_text('journal_file_size = "8MiB"\njournal_limit = "48MiB"\nmax_batch = "2MiB"\n')
    node = Node(gem_bin, tmp_path / "data", "--config", str(config))
    node.start()
    try:
        rest = Rest(node.url)
        assert rest.call("PUT", "/v1/topics/fast", {"retention_bytes": 16 * MIB}).status == 201
        quiet = []
        for round in range(8):
            quiet += [f"q{round}-{i}" for i in range(50)]
            rest.publish("quiet", [{"id": id, "payload": "x" * 1000} for id in quiet[-50:]])
            bench(node, "publish", "--topic", "fast", "--size", "1KiB", "--messages", str(48 * MIB // 1024), "--batch", "100")
        # Both topics, the journal's limit, its spares and reserve, and the index.
        allowed = 16 * MIB + 1 * MIB + 48 * MIB + 128 * MIB
        used = wait_for(lambda: (u := node.disk_bytes()) <= allowed and u, 60, f"disk use under {allowed // MIB} MiB")
        print(f"\n{8 * 48} MiB published to the fast topic, {used / MIB:.0f} MiB on disk")
        assert [m["id"] for m in rest.read_all("quiet")] == quiet
        fast = rest.call("GET", "/v1/topics/fast").json()
        assert fast["bytes"] <= 20 * MIB, fast
        node.kill()
        node.start()
        assert [m["id"] for m in Rest(node.url).read_all("quiet")] == quiet
    finally:
        node.stop_hard()


def test_one_stalled_reader_of_ten(gem_bin: Path, tmp_path: Path) -> None:
    node = Node(gem_bin, tmp_path / "data", "--memory", "128MiB")
    node.start()
    try:
        Rest(node.url).call("PUT", "/v1/topics/wide", {})
        total = 6000
        counts = [0] * 10
        stalled = threading.Event()

        def read(number: int) -> None:
            with grpc.insecure_channel(node.url.removeprefix("http://")) as channel:
                stub = channel.stream_stream(
                    "/gem.v1.Subscriber/Subscribe",
                    request_serializer=subscriber_pb2.SubscribeRequest.SerializeToString,
                    response_deserializer=subscriber_pb2.SubscribeResponse.FromString,
                )

                def requests():  # type: ignore[no-untyped-def]
                    start = subscriber_pb2.SubscribeStart(topic="wide", credit=1_000_000, **{"from": "earliest"})
                    yield subscriber_pb2.SubscribeRequest(start=start)
                    stalled.wait(120)

                call = stub(requests())
                for response in call:
                    counts[number] += len(response.batch.messages)
                    if number == 0:
                        stalled.wait(120)  # takes its first batch and never another
                        break
                    if counts[number] >= total:
                        break
                call.cancel()

        threads = [threading.Thread(target=read, args=(n,), daemon=True) for n in range(10)]
        for thread in threads:
            thread.start()
        bench(node, "publish", "--topic", "wide", "--size", "16KiB", "--messages", str(total), "--batch", "20")
        try:
            wait_for(lambda: all(c >= total for c in counts[1:]), 90, "nine readers at the end")
        finally:
            peak = peak_resident_bytes(node)
            stalled.set()
        for thread in threads:
            thread.join(10)
        print(f"\nnine readers got {total} messages each, the stalled one {counts[0]}; {peak / MIB:.0f} MiB resident at most")
        assert counts[0] < total
        assert peak < 1.5 * 128 * MIB
    finally:
        node.stop_hard()


def test_a_second_process_on_the_directory_is_refused(node: Node) -> None:
    second = subprocess.run(
        [str(node.gem_bin), "start", "--data", str(node.data), "--listen", "127.0.0.1:0"],
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert second.returncode == 1
    assert str(node.data).encode() in second.stderr
    assert len(second.stderr.strip().splitlines()) >= 1
    assert Rest(node.url).call("GET", "/readyz").status == 200


@pytest.mark.parametrize("flag", [["--memory", "lots"], ["--listen", "0.0.0.0:0"]])
def test_a_start_that_cannot_be_is_refused_with_words(gem_bin: Path, tmp_path: Path, flag: list[str]) -> None:
    started = subprocess.run(
        [str(gem_bin), "start", "--data", str(tmp_path / "d"), *flag], capture_output=True, timeout=30, check=False
    )
    assert started.returncode in (1, 2)
    assert flag[1].encode() in started.stderr, started.stderr
    assert not started.stdout


def test_nack_leads_to_dead_letters(node: Node) -> None:
    rest = Rest(node.url)
    assert rest.call("PUT", "/v1/topics/work", {"max_deliveries": 3}).status == 201
    rest.publish("work", [{"id": "poison", "key": "k", "payload": {"n": 1}}, {"id": "fine", "payload": "x"}])
    deliveries = []
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and len(deliveries) < 4:
        for message in rest.pull("work", "g", wait_ms=500):
            deliveries.append((message["id"], message["delivery"]))
            verb = "nack" if message["id"] == "poison" else "ack"
            rest.settle(verb, "work", "g", [message["ack_token"]])
    assert sorted(deliveries) == [("fine", 1), ("poison", 1), ("poison", 2), ("poison", 3)]
    dead = wait_for(lambda: rest.call("GET", "/v1/topics/work.g.dlq/messages?from=earliest").json().get("messages"), 30)
    assert len(dead) == 1 and dead[0]["payload"] == {"n": 1} and dead[0]["key"] == "k"
    group = wait_for(lambda: (g := rest.call("GET", "/v1/topics/work/groups/g").json())["lag"] == 0 and g, 10)
    assert group["dead_lettered"] == 1 and group["pending"] == 0
    node.kill()
    node.start()
    rest = Rest(node.url)
    assert rest.pull("work", "g", wait_ms=500) == []
    assert len(rest.read_all("work.g.dlq")) == 1
