"""Figures of a mesh of three on one machine, beside a single node in the same run.

    ./dev bench --mesh [--quick] [--markdown FILE]
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.mesh import Mesh, MeshNode, until
from harness.rest import Rest

SIZE = 1024
BATCH = 100
#: How long an idle mesh is watched, in seconds.
IDLE = 20.0

Bench = Callable[..., dict[str, float]]
Show = Callable[[str], None]


def measure(gem: Path, work: Path, bench: Bench, show: Show, quick: bool) -> None:
    """Prints all of it."""
    messages = 50_000 if quick else 200_000
    show("| 1 KiB, batches of 100 | messages/s | p99 ms | CPU s per M | bytes written per replicated payload byte |")
    show("| --- | ---: | ---: | ---: | ---: |")
    rates = []
    for size in (1, 3):
        with Mesh(gem, work / f"of-{size}") as mesh:
            (work / f"of-{size}").mkdir()
            mesh.grow(size)
            if size == 3:
                mesh.wait_healthy()
            # The node in the middle: it leads some of the shards, and forwards to others.
            rates.append(published(mesh, mesh.nodes[size // 2], messages, bench, show))
            if size == 3:
                idle(mesh, show)
                rebuilt(mesh, show, 100 if quick else 300)
    show(f"\nthree nodes against one, messages/s: {rates[1] / rates[0]:.2f}")


def published(mesh: Mesh, node: MeshNode, messages: int, bench: Bench, show: Show) -> float:
    """One row; a thousandth part of the messages goes to make the topic, uncounted."""
    common = ["--url", node.url, "--topic", "bench", "--size", f"{SIZE}B", "--batch", str(BATCH)]
    bench("publish", *common, "--messages", str(max(BATCH, messages // 1000)))
    cpu, written = total(mesh, MeshNode.cpu_seconds), total(mesh, MeshNode.written_bytes)
    result: dict[str, Any] = bench("publish", *common, "--messages", str(messages))
    assert result["errors"] == 0, result
    cpu = total(mesh, MeshNode.cpu_seconds) - cpu
    # The last copy may be on its way still.
    until(lambda: settled(mesh), 30.0, "the last bytes are not written")
    written = total(mesh, MeshNode.written_bytes) - written
    replicated = messages * SIZE * len(mesh.nodes)
    show(
        f"| nodes: {len(mesh.nodes)} | {result['messages_per_s']:.0f} | {result['latency_ms']['p99']:.1f} | "
        f"{cpu / messages * 1e6:.2f} | {written / replicated:.2f} |"
    )
    return result["messages_per_s"]


def settled(mesh: Mesh) -> bool:
    before = total(mesh, MeshNode.written_bytes)
    time.sleep(0.5)
    return total(mesh, MeshNode.written_bytes) - before < 1 << 20


def total(mesh: Mesh, of: Callable[[MeshNode], float]) -> float:
    return sum(of(node) for node in mesh.nodes)


def idle(mesh: Mesh, show: Show) -> None:
    """What nodes take that nobody asks anything."""
    time.sleep(2.0)
    before = [node.cpu_seconds() for node in mesh.nodes]
    time.sleep(IDLE)
    shares = [(node.cpu_seconds() - cpu) / IDLE for node, cpu in zip(mesh.nodes, before, strict=True)]
    show("\nidle, of one core, each of three nodes: " + ", ".join(f"{share:.1%}" for share in shares))


def rebuilt(mesh: Mesh, show: Show, mib: int) -> None:
    """A node is lost for good; a fourth takes its replicas."""
    for _ in range(mib):
        Rest(mesh.nodes[0].url).publish("ballast", [{"payload": "x" * 10_000} for _ in range(105)])
    mesh.add()
    until(lambda: mesh.is_healthy() and not moving(mesh), 180.0, mesh.describe)
    lost = mesh.nodes.pop(1)
    probe = Probe(mesh.nodes[0].url)
    probe.run(5.0)
    before = probe.p99()
    name, held = lost.name, {node.name: node.disk_bytes() for node in mesh.nodes}
    written = total(mesh, MeshNode.written_bytes)
    lost.kill()
    lost.stop_hard()
    began = time.monotonic()
    # Rebuilt at once, not after `replace_after`.
    until(lambda: not mesh.is_healthy(), 30.0, "its loss is not seen")
    mesh.command("remove", name)
    probe.start()
    began = time.monotonic()
    until(mesh.is_healthy, 300.0, mesh.describe)
    took = time.monotonic() - began
    probe.stop()
    grown = sum(node.disk_bytes() - held[node.name] for node in mesh.nodes)
    written = total(mesh, MeshNode.written_bytes) - written
    show(
        f"a node of four lost, replicas rebuilt in {took:.1f} s: {written / (1 << 20):.0f} MiB written "
        f"({written / took / (1 << 20):.0f} MiB/s), {grown / (1 << 20):.0f} MiB more on disk; "
        f"publish p99 {before:.1f} ms before, {probe.p99():.1f} ms during, ratio {probe.p99() / before:.1f}"
    )


def moving(mesh: Mesh) -> bool:
    """Whether the new node holds nothing yet, or a replica is on its way."""
    shards = mesh.shards(mesh.nodes[-1])
    held = sum(seat["node"] == mesh.nodes[-1].id for shard in shards for seat in shard["replicas"])
    return held < 8 or any(shard["doing"] for shard in shards)


class Probe:
    """Publishes a message of 1 KiB every 10 ms, retried until it is stored."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._took: list[float] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def run(self, seconds: float) -> None:
        """For so long."""
        self.start()
        time.sleep(seconds)
        self.stop()

    def start(self) -> None:
        self._took = []
        self._stop.clear()
        self._thread = threading.Thread(target=self._publish, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        assert self._thread is not None
        self._thread.join(60)

    def p99(self) -> float:
        """In milliseconds."""
        return sorted(self._took)[int(len(self._took) * 0.99)] * 1000

    def _publish(self) -> None:
        rest = Rest(self._url, 10.0)
        sent = 0
        while not self._stop.wait(0.01):
            sent += 1
            began = time.monotonic()
            message = {"id": f"{began}-{sent}", "payload": "x" * SIZE}
            while True:
                try:
                    if "offset" in rest.publish(f"probe{sent % 8}", [message])[0]:
                        break
                except Exception:  # refused, or unheard: the same id again
                    time.sleep(0.01)
            self._took.append(time.monotonic() - began)
