"""What is done to a mesh on purpose, under load: restarts one by one, growing, draining."""

from __future__ import annotations

import os
import subprocess
import time
from collections import Counter
from pathlib import Path

from harness.mesh import Mesh, until
from harness.mesh_workload import MeshWorkload

TOPICS = [f"t{n}" for n in range(8)]


def test_a_rolling_restart_is_not_noticed(gem_bin: Path, tmp_path: Path) -> None:
    rounds = 1 + int(os.environ.get("GEM_MESH_ROUNDS", "10")) // 25
    with Mesh(gem_bin, tmp_path) as mesh:
        mesh.grow(3)
        mesh.wait_healthy()
        workload = MeshWorkload(mesh.urls, TOPICS, 1)
        workload.start()
        try:
            time.sleep(2.0)
            before = time.monotonic()
            stops, starts = [], []
            for _ in range(rounds):
                for node in mesh.nodes:
                    began = time.monotonic()
                    assert node.stop(15.0) == 0
                    stops.append(time.monotonic() - began)
                    starts.append(node.start())
                    mesh.wait_ready()
                    mesh.wait_healthy()
                    time.sleep(1.0)
            after = time.monotonic()
            workload.finish()
            counts = workload.check()
        finally:
            workload.stop()
        print(f"\nrolling restart of three, {rounds} times: {counts}, refusals {dict(workload.retries)}")
        print(f"slowest stop {max(stops):.2f} s, start {max(starts):.2f} s; {tail(workload, before, after)}")


def test_it_grows_to_five_and_drains_to_three(gem_bin: Path, tmp_path: Path) -> None:
    with Mesh(gem_bin, tmp_path) as mesh:
        mesh.grow(1)
        workload = MeshWorkload(mesh.urls, TOPICS, 2)
        workload.start()
        try:
            time.sleep(1.0)
            before = time.monotonic()
            for size in range(2, 6):
                began = time.monotonic()
                node = mesh.add()
                workload.urls.append(node.url)
                if size > 2:
                    mesh.wait_healthy()
                print(f"{size} nodes: whole after {time.monotonic() - began:.1f} s; replicas {spread(mesh)}", flush=True)
                time.sleep(1.0)
            even = until(lambda: even_spread(mesh), 120.0, lambda: f"it stays uneven: {spread(mesh)}, {mesh.shards()}")
            print(f"five nodes: {even} after {time.monotonic() - began:.1f} s", flush=True)
            workload.check()
            for node in mesh.nodes[:2]:
                began = time.monotonic()
                gem(gem_bin, mesh.nodes[-1].url, "mesh", "drain", node.name)
                until(lambda node=node: replicas(mesh, node.id) == 0, 180.0, mesh.describe)  # type: ignore[misc]
                workload.urls.remove(node.url)
                assert node.stop(15.0) == 0
                gem(gem_bin, mesh.nodes[-1].url, "mesh", "remove", node.name)
                print(f"{node.name} drained and gone after {time.monotonic() - began:.1f} s", flush=True)
            del mesh.nodes[:2]
            mesh.wait_healthy()
            after = time.monotonic()
            workload.finish()
            counts = workload.check()
        finally:
            workload.stop()
        print(f"one to five, to three: {counts}, refusals {dict(workload.retries)}; replicas {spread(mesh)}")
        print(tail(workload, before, after))
        assert spread(mesh) == [16, 16, 16]


def gem(gem_bin: Path, url: str, *args: str) -> str:
    done = subprocess.run([gem_bin, *args, "--url", url], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"gem {' '.join(args)}: {done.stderr}"
    return done.stdout


def replicas(mesh: Mesh, node: str) -> int:
    """How many replicas a node holds, as the last node of the mesh sees it."""
    shards = mesh.shards(mesh.nodes[-1])
    assert shards
    return sum(seat["node"] == node for shard in shards for seat in shard["replicas"])


def spread(mesh: Mesh) -> list[int]:
    return [replicas(mesh, node.id) for node in mesh.nodes]


def even_spread(mesh: Mesh) -> str:
    """What each node holds and leads, once that is about the same everywhere."""
    held = spread(mesh)
    of_node = Counter(shard["leader"] for shard in mesh.shards(mesh.nodes[-1]))
    led = [of_node[node.id] for node in mesh.nodes]
    if sum(held) != 48 or max(held) - min(held) > 3 or max(led) - min(led) > 3 or not mesh.is_healthy():
        return ""
    return f"replicas {held}, leaderships {led}"


def tail(workload: MeshWorkload, since: float, until: float) -> str:
    """What publishers waited, retries included."""
    took = sorted(ack.took for ack in workload.acks if since <= ack.at <= until)
    at = [f"p{share} {took[int(len(took) * share / 100)] * 1000:.0f} ms" for share in (50, 99)]
    return f"publish until acknowledged, retries included: {', '.join(at)}, longest {took[-1] * 1000:.0f} ms"
