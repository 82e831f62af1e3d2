"""What publishers notice when a node is lost: a pause of the shards that it led, and nothing elsewhere."""

from __future__ import annotations

import os
import random
import time
from collections import defaultdict
from pathlib import Path

import pytest

from harness.mesh import Mesh, MeshNode, home
from harness.mesh_workload import MeshWorkload

#: The longest time without an ack after a leader was lost, in seconds.
PAUSE = 2.0
SHARDS = 16


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_the_loss_of_a_leader_is_a_short_pause(gem_bin: Path, tmp_path: Path, how: str) -> None:
    """`stop`: it keeps its connections and answers nothing, which no network error tells."""
    rounds = int(os.environ.get("GEM_MESH_ROUNDS", "10")) // 5 + 1
    rng = random.Random(int(os.environ.get("GEM_SEED", "1")))
    with Mesh(gem_bin, tmp_path) as mesh:
        mesh.grow(3)
        mesh.wait_healthy()
        topics = one_a_shard()
        # A producer a topic: none waits for the shard of another.
        workload = MeshWorkload(
            mesh.urls, topics, 1, producers=SHARDS, members=0, pause=0.03, batch=1, pad=100, own_topics=True
        )
        workload.start()
        worst = 0.0
        try:
            for round in range(rounds):
                time.sleep(3.0)
                mesh.wait_healthy()
                node = rng.choice(mesh.nodes)
                others = [other.url for other in mesh.nodes if other is not node]
                workload.urls[:] = others  # a client that loses its own node is another matter
                time.sleep(1.0)
                led = {topic for topic in topics if mesh.leader_of(topic) is node}
                killed = time.monotonic()
                if how == "kill":
                    node.kill()
                else:
                    node.pause()
                time.sleep(8.0)
                gaps = workload.gaps(killed - 2.0, time.monotonic())
                worst = max(worst, report(round, node, led, gaps))
                assert not workload.faults, workload.faults[:5]
                if how == "kill":
                    node.start()
                else:
                    node.resume()
                workload.urls[:] = mesh.urls
                mesh.wait_ready()
            workload.finish()
            workload.check()
        finally:
            workload.stop()
        print(f"{how}: the longest pause of {rounds} losses: {worst:.2f} s")
        assert worst < PAUSE, f"a publisher waited {worst:.2f} s for the loss of a leader"


def one_a_shard() -> list[str]:
    """A topic in each of the shards that a mesh is founded with."""
    found: dict[int, str] = {}
    number = 0
    while len(found) < SHARDS:
        topic = f"t{number}"
        found.setdefault(home(topic) * SHARDS >> 64, topic)
        number += 1
    return list(found.values())


def report(round: int, node: MeshNode, led: set[str], gaps: dict[str, list[float]]) -> float:
    """Prints what each side noticed; answers the longest pause of a shard that the lost node had led."""
    sides: dict[bool, list[float]] = defaultdict(list)
    longest: dict[bool, float] = defaultdict(float)
    for topic, of_topic in gaps.items():
        sides[topic in led] += of_topic
        longest[topic in led] = max(longest[topic in led], *of_topic)
    for side, what in ((True, "led by it"), (False, "led elsewhere")):
        if sides[side]:
            each = sorted(sides[side])
            p99 = each[int(len(each) * 0.99)]
            print(f"round {round}: {node.name} lost, {what}: longest gap {longest[side]:.3f} s, p99 {p99 * 1000:.0f} ms")
    return longest[True]
