"""A node is away for longer than the others keep their log: it gets a snapshot and the payloads, and serves them."""

from __future__ import annotations

import time
from pathlib import Path

from harness.mesh import Mesh, MeshNode, until
from harness.mesh_workload import MeshWorkload

#: More than a group's log that is kept for those who are away.
BYTES = 40 << 20
PAD = 40_000


def test_one_that_was_away_for_long_gets_all_of_it(gem_bin: Path, tmp_path: Path) -> None:
    config = tmp_path / "gem.toml"
    config.write_text('journal_file_size = "16MiB"\njournal_limit = "64MiB"\n')
    topics = ["big0", "big1"]
    with Mesh(gem_bin, tmp_path, "--config", str(config)) as mesh:
        mesh.grow(3)
        mesh.wait_healthy()
        workload = MeshWorkload(mesh.urls, topics, 1, members=0, batch=10, pad=PAD, pause=0.1)
        workload.start()
        try:
            time.sleep(1.0)
            away = mesh.nodes[2]
            away.kill()
            enough = workload.published() + len(topics) * BYTES // PAD
            began = time.monotonic()
            until(lambda: workload.published() > enough or workload.faults, 120.0, lambda: f"{workload.published()} stored")
            stored = time.monotonic() - began
            away.start()
            # It is interrupted once while it catches up.
            time.sleep(0.7)
            away.kill()
            away.start()
            mesh.wait_ready()
            until(lambda: taken(away) > 16, 60.0, lambda: f"{taken(away)} snapshots: the log was enough")
            workload.stop_publishing()
            print(f"\n{workload.published()} messages of some {PAD} bytes, many of them in {stored:.0f} s without one node")
            workload.check()
            # What it holds must be all of it: each of the others goes, and it has to lead or to confirm.
            for node in mesh.nodes[:2]:
                node.kill()
                workload.check([other.url for other in mesh.nodes if other is not node])
                node.start()
                mesh.wait_ready()
            workload.finish()
            print(workload.check())
        finally:
            workload.stop()


def taken(node: MeshNode) -> int:
    """The snapshots that a node took in; it comes into a mesh by one a shard."""
    return node.log.read_text(errors="replace").count("took in a snapshot")
