"""A mesh grows from one node to five and drains back to three, under load."""

from __future__ import annotations

import time
from pathlib import Path

from harness.mesh import Mesh, until
from harness.mesh_phases import Phases, even_spread, led, replicas, spread
from harness.mesh_workload import MeshWorkload

TOPICS = [f"t{n}" for n in range(8)]


def test_it_grows_to_five_and_drains_to_three(gem_bin: Path, tmp_path: Path) -> None:
    with Mesh(gem_bin, tmp_path) as mesh:
        mesh.grow(1)
        workload = MeshWorkload(mesh.urls, TOPICS, 2)
        phases = Phases(workload)
        workload.start()
        try:
            phases.begin("1 node")
            time.sleep(2.0)
            phases.begin("growing")
            for size in range(2, 6):
                began = time.monotonic()
                workload.urls.append(mesh.add().url)
                if size > 2:
                    mesh.wait_healthy()
                print(f"{size} nodes after {time.monotonic() - began:.1f} s; {lie(mesh)}", flush=True)
                time.sleep(1.0)
            even = until(lambda: even_spread(mesh), 120.0, lambda: f"it stays uneven: {lie(mesh)}, {mesh.shards()}")
            print(f"five nodes: {even} after {time.monotonic() - began:.1f} s", flush=True)
            phases.begin("5 nodes")
            time.sleep(3.0)
            workload.check()
            phases.begin("draining")
            for node in mesh.nodes[:2]:
                began = time.monotonic()
                mesh.command("drain", node.name)
                until(lambda node=node: replicas(mesh, node.id) == 0, 180.0, mesh.describe)  # type: ignore[misc]
                # What it holds is for the node itself to say, too.
                until(lambda node=node: 'gem_shards 0' in node.metrics(), 30.0, mesh.describe)  # type: ignore[misc]
                print(f"{node.name} empty after {time.monotonic() - began:.1f} s; {lie(mesh)}", flush=True)
                workload.urls.remove(node.url)
                assert node.stop(15.0) == 0
                mesh.command("remove", node.name)
            del mesh.nodes[:2]
            mesh.wait_healthy()
            until(lambda: even_spread(mesh), 120.0, lambda: f"it stays uneven: {lie(mesh)}, {mesh.shards()}")
            phases.begin("3 nodes")
            time.sleep(3.0)
            shown = phases.show()
            workload.finish()
            counts = workload.check()
            status = mesh.command("status")
        finally:
            workload.stop()
        print(f"one to five, to three: {counts}, refusals {dict(workload.retries)}; {lie(mesh)}\n{shown}\n{status}")
        assert spread(mesh) == [16, 16, 16]
        assert status.startswith("all shards are replicated as they should be\n3 of 3 nodes alive"), status


def lie(mesh: Mesh) -> str:
    return f"replicas {spread(mesh)}, leaderships {led(mesh)}"
