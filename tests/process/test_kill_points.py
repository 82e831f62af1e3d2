"""kill -9 at each step of founding and of recycling.

The kernel does the killing: strace delivers SIGKILL at the N-th call that changes files, so that no hook
stands in the node. Each step of founding and recycling ends in such a call.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

from harness.node import Node
from harness.rest import Rest

STEPS = "fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,fallocate,ftruncate,mkdir,mkdirat"


def killed_at(when: int) -> list[str]:
    return ["strace", "-f", "-o", "/dev/null", "-e", f"trace={STEPS}", "-e", f"inject={STEPS}:signal=SIGKILL:when={when}"]


def start_or_die(node: Node) -> bool:
    """Whether it became ready before it was killed."""
    try:
        node.start(60)
    except AssertionError:
        return False
    return True


def end_traced(node: Node) -> None:
    """Ends a node under strace: the node first, then the tracer follows."""
    assert node.process is not None
    if node.process.poll() is None:
        for child in Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
    node.process.wait(30)
    node.stop_hard()


def test_founding_resumes_from_every_step(gem_bin: Path, tmp_path: Path) -> None:
    samples = int(os.environ.get("GEM_KILL_POINTS", "12"))
    steps = count_steps(gem_bin, tmp_path / "count")
    rng = random.Random(3)
    chosen = sorted({1, 2, 3, steps, *rng.sample(range(1, steps + 1), min(samples, steps))})
    for when in chosen:
        node = Node(gem_bin, tmp_path / f"at-{when}")
        node.wrapper = killed_at(when)
        start_or_die(node)
        end_traced(node)
        node.wrapper = []
        node.start()
        try:
            rest = Rest(node.url)
            assert rest.publish("t", [{"id": "a", "payload": "x"}])[0]["offset"] == 0
            node.kill()
            node.start()
            assert [m["id"] for m in Rest(node.url).read_all("t")] == ["a"]
        finally:
            node.stop_hard()
    print(f"\nfounding: {steps} steps that change files, killed at {chosen}")


def count_steps(gem_bin: Path, data: Path) -> int:
    """How many calls that change files a founding makes."""
    trace = data.parent / "steps"
    node = Node(gem_bin, data)
    node.wrapper = ["strace", "-f", "-o", str(trace), "-e", f"trace={STEPS}", "-e", "signal=none"]
    node.start(120)
    steps = sum("(" in line and "resumed" not in line for line in trace.read_text(errors="replace").splitlines())
    end_traced(node)
    return steps


def test_recycling_survives_a_kill_at_every_step(gem_bin: Path, tmp_path: Path) -> None:
    rounds = int(os.environ.get("GEM_KILL_POINTS", "12")) // 2
    config = tmp_path / "gem.toml"
    config.write_text('journal_file_size = "4MiB"\njournal_limit = "16MiB"\nmax_batch = "2MiB"\n')
    node = Node(gem_bin, tmp_path / "data", "--config", str(config))
    node.start()
    rng = random.Random(5)
    kept: list[str] = []
    try:
        Rest(node.url).call("PUT", "/v1/topics/fast", {"retention_bytes": 4 << 20})
        Rest(node.url).call("PUT", "/v1/topics/quiet", {})
        node.kill()
        for round in range(rounds):
            node.wrapper = killed_at(rng.randint(1, 120))
            if start_or_die(node):
                fill_until_killed(node, f"r{round}", kept)
            end_traced(node)
            node.wrapper = []
            node.start()
            assert [m["id"] for m in Rest(node.url).read_all("quiet")][: len(kept)] == kept
            node.kill()
        node.start()
        assert [m["id"] for m in Rest(node.url).read_all("quiet")] == kept
        print(f"\nrecycling: {rounds} kills, {len(kept)} messages of the quiet topic kept")
    finally:
        node.stop_hard()


def fill_until_killed(node: Node, name: str, kept: list[str]) -> None:
    """Publishes to both topics until the node dies, or gives up: enough then for many recyclings."""
    rest = Rest(node.url, timeout=10)
    pad = "x" * 30_000
    deadline = time.monotonic() + 20
    number = 0
    while time.monotonic() < deadline:
        id = f"{name}-{number}"
        number += 1
        try:
            rest.publish("quiet", [{"id": id, "payload": pad[:2000]}])
            kept.append(id)
            rest.publish("fast", [{"payload": pad} for _ in range(30)])
        except Exception:
            # The publish to the quiet topic may be stored without having been acknowledged.
            if len(kept) == 0 or kept[-1] != id:
                settle_doubt(node, id, kept)
            return


def settle_doubt(node: Node, id: str, kept: list[str]) -> None:
    end_traced(node)
    node.wrapper = []
    node.start()
    try:
        if any(m["id"] == id for m in Rest(node.url).read_all("quiet")):
            kept.append(id)
    finally:
        node.kill()


