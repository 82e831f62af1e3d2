"""What publishers waited in each phase of a test, and how a mesh's shards lie when a phase ends."""

from __future__ import annotations

import time
from collections import Counter

from harness.mesh import Mesh
from harness.mesh_workload import MeshWorkload


class Phases:
    """Named stretches of time, one after the other. An ack counts where it came."""

    def __init__(self, workload: MeshWorkload) -> None:
        self._workload = workload
        self._began: list[tuple[str, float]] = []

    def begin(self, name: str) -> None:
        """Ends the phase that runs, if one does."""
        self._began.append((name, time.monotonic()))

    def show(self) -> str:
        """A line for each phase; waiting counts from the first attempt, retries included."""
        ends = [at for _, at in self._began[1:]] + [time.monotonic()]
        with self._workload.lock:
            acks = list(self._workload.acks)
        lines = []
        for (name, since), until in zip(self._began, ends, strict=True):
            took = sorted(ack.took for ack in acks if since <= ack.at < until)
            assert took, f"nothing was acknowledged in the phase {name}, {until - since:.1f} s long"
            at = [f"p{share} {took[int(len(took) * share / 100)] * 1000:.0f} ms" for share in (50, 99)]
            lines.append(
                f"{name}: {until - since:.1f} s, {len(took)} publishes, {', '.join(at)}, longest {took[-1] * 1000:.0f} ms"
            )
        return "\n".join(lines)


def replicas(mesh: Mesh, node: str) -> int:
    """How many replicas a node holds, as the last node of the mesh sees it."""
    shards = mesh.shards(mesh.nodes[-1])
    assert shards
    return sum(seat["node"] == node for shard in shards for seat in shard["replicas"])


def spread(mesh: Mesh) -> list[int]:
    """The replicas of each node."""
    return [replicas(mesh, node.id) for node in mesh.nodes]


def led(mesh: Mesh) -> list[int]:
    """The shards that each node leads, as the last node of the mesh sees it."""
    of_node = Counter(shard["leader"] for shard in mesh.shards(mesh.nodes[-1]))
    return [of_node[node.id] for node in mesh.nodes]


def even_spread(mesh: Mesh) -> str:
    """What each node holds and leads, once that is about the same everywhere; shards have three replicas."""
    held, leads = spread(mesh), led(mesh)
    if sum(held) != 48 or max(held) - min(held) > 3 or max(leads) - min(leads) > 3 or not mesh.is_healthy():
        return ""
    return f"replicas {held}, leaderships {leads}"
