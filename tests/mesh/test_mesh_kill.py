"""Nodes of a mesh are killed and paused at random under load. GEM_MESH_ROUNDS sets how often (default 10)."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

from harness.mesh import Mesh
from harness.mesh_workload import MeshWorkload

#: The mesh must be whole again within so many seconds.
RETURN = 60.0
#: Journals so small that nodes that were away need more than what the others still hold of the log.
SMALL = 'journal_file_size = "4MiB"\njournal_limit = "16MiB"\nmax_batch = "2MiB"\n'
KINDS = ("kill", "kill", "pause", "kill all", "kill two", "kill while one returns", "pause two")


def test_kills_and_pauses_lose_nothing(gem_bin: Path, tmp_path: Path) -> None:
    rounds = int(os.environ.get("GEM_MESH_ROUNDS", "10"))
    seed = int(os.environ.get("GEM_SEED", "1"))
    rng = random.Random(seed)
    kinds: Counter[str] = Counter()
    slowest: dict[str, float] = {}
    config = tmp_path / "gem.toml"
    config.write_text(SMALL)
    with Mesh(gem_bin, tmp_path, "--config", str(config)) as mesh:
        mesh.grow(3)
        mesh.wait_healthy()
        workload = MeshWorkload(mesh.urls, [f"t{n}" for n in range(6)], seed, pause=0.04)
        workload.start()
        try:
            for round in range(rounds):
                time.sleep(rng.uniform(0.5, 2.0))
                kind = rng.choice(KINDS)
                kinds[kind] += 1
                undone = strike(mesh, kind, rng)
                took = workload.wait_served(undone, RETURN) - undone
                slowest[kind] = max(slowest.get(kind, 0.0), took)
                print(f"round {round}: {kind}, served after {took:.2f} s, {workload.published()} stored", flush=True)
                assert not workload.faults, workload.faults[:5]
                workload.check(in_full=False)
            workload.finish()
            counts = workload.check()
        finally:
            workload.stop()
        print(f"\nmesh of three, {rounds} rounds {dict(kinds)}, seed {seed}: {counts}")
        print(f"publishers were refused or left unheard: {dict(workload.retries)}")
        print("slowest return: " + ", ".join(f"{kind} {took:.2f} s" for kind, took in slowest.items()))
        assert counts["published"] > 20 * rounds
        if rounds >= 100:
            assert kinds.keys() == set(KINDS), f"not every kind came: {dict(kinds)}"


def strike(mesh: Mesh, kind: str, rng: random.Random) -> float:
    """Does it, undoes it, and waits until the mesh is whole; answers when it was undone."""
    one, two, three = rng.sample(mesh.nodes, 3)
    match kind:
        case "pause" | "pause two":
            paused = [one] if kind == "pause" else [one, two]
            for node in paused:
                node.pause()
            time.sleep(rng.uniform(1.0, 6.0))
            undone = time.monotonic()
            for node in paused:
                node.resume()
        case "kill while one returns":
            # The second goes before the first has caught up: what it lacks is with the third alone.
            one.kill()
            time.sleep(rng.uniform(0.5, 3.0))
            one.spawn()
            time.sleep(rng.uniform(0.0, 1.0))
            two.kill()
            undone = time.monotonic()
            two.spawn()
        case _:
            killed = {"kill": [one], "kill two": [one, two], "kill all": [one, two, three]}[kind]
            for node in killed:
                os.kill(node.pid, signal.SIGKILL)  # all at once: none sees the others go
            for node in killed:
                node.kill()
            time.sleep(0.0 if kind == "kill all" else rng.uniform(0.0, 3.0))
            undone = time.monotonic()
            for node in killed:
                node.spawn()
    mesh.wait_ready(RETURN)
    return undone
