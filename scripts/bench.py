"""Figures of publish and deliver, beside the journal's own write rate in the same run.

    ./dev bench [--quick] [--mesh] [--markdown FILE]

Every case runs against one fresh node over gRPC; CPU and bytes written are the node's own, from /proc.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import bench_mesh
from harness.node import Node

GEM = Path(os.environ["GEM_BIN"])
SIZES = [("100B", 100), ("1KiB", 1024)]
BATCHES = [1, 10, 100, 1000]


def gem_bench(kind: str, *args: str) -> dict[str, float]:
    out = subprocess.run([str(GEM), "bench", kind, "--json", *args], check=True, capture_output=True, timeout=600)
    result: dict[str, float] = json.loads(out.stdout)
    return result


def zombie_written_bytes(node: Node) -> int:
    """Bytes written over the node's whole life: asks it to stop, which flushes the index, and reads the figure
    before the process is reaped."""
    assert node.process is not None
    node.process.terminate()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        state = Path(f"/proc/{node.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        if state == "Z":
            break
        time.sleep(0.01)
    return node.written_bytes()


def case(work: Path, name: str, size: int, batch: int, messages: int) -> dict[str, float]:
    node = Node(GEM, work / f"{name}-{batch}")
    node.start()
    try:
        common = ["--url", node.url, "--topic", "bench", "--size", f"{size}B", "--batch", str(batch), "--messages", str(messages)]
        before = node.cpu_seconds()
        published = gem_bench("publish", *common)
        middle = node.cpu_seconds()
        delivered = gem_bench("deliver", *common)
        after = node.cpu_seconds()
        assert published["errors"] == 0 and delivered["errors"] == 0, (published, delivered)
        written = zombie_written_bytes(node)
    finally:
        node.stop_hard()
    million = messages / 1e6
    return {
        "publish_mib_s": published["mib_per_s"],
        "publish_msg_s": published["messages_per_s"],
        "publish_cpu": (middle - before) / million,
        "publish_p50": published["latency_ms"]["p50"],
        "publish_p99": published["latency_ms"]["p99"],
        "deliver_mib_s": delivered["mib_per_s"],
        "deliver_msg_s": delivered["messages_per_s"],
        "deliver_cpu": (after - middle) / million,
        "written": written / (messages * size),
    }


def single(work: Path, show: bench_mesh.Show, quick: bool) -> None:
    """One node: every size and batch."""
    show("| size | batch | journal MiB/s | publish MiB/s | of the journal | messages/s | server CPU s per M | p50 ms | p99 ms | bytes written per payload byte | deliver MiB/s | messages/s | server CPU s per M |")
    show("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, size in SIZES:
        for batch in BATCHES:
            messages = {1: 50_000, 10: 200_000, 100: 500_000, 1000: 500_000}[batch]
            if quick:
                messages //= 10
            journal = gem_bench(
                "journal", "--data", str(work / f"journal-{name}-{batch}"), "--size", f"{size}B", "--batch", str(batch),
                "--messages", str(min(messages, 200_000)),
            )["mib_per_s"]  # fmt: skip
            r = case(work, name, size, batch, messages)
            show(
                f"| {name} | {batch} | {journal:.0f} | {r['publish_mib_s']:.1f} | {r['publish_mib_s'] / journal:.2f} | "
                f"{r['publish_msg_s']:.0f} | {r['publish_cpu']:.2f} | {r['publish_p50']:.2f} | {r['publish_p99']:.2f} | "
                f"{r['written']:.2f} | {r['deliver_mib_s']:.1f} | {r['deliver_msg_s']:.0f} | {r['deliver_cpu']:.2f} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a tenth of the messages")
    parser.add_argument("--markdown", help="also write the tables to this file")
    parser.add_argument("--mesh", action="store_true", help="a mesh of three against one node, idle, and when one is lost")
    args = parser.parse_args()
    lines: list[str] = []

    def show(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    with tempfile.TemporaryDirectory(dir=os.environ.get("GEM_BENCH_DIR")) as scratch:
        work = Path(scratch)
        if args.mesh:
            bench_mesh.measure(GEM, work, gem_bench, show, args.quick)
        else:
            single(work, show, args.quick)
    if args.markdown:
        Path(args.markdown).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
