"""Every node of a mesh is restarted, one by one, under load."""

from __future__ import annotations

import os
import time
from pathlib import Path

from harness.mesh import Mesh
from harness.mesh_phases import Phases
from harness.mesh_workload import MeshWorkload

TOPICS = [f"t{n}" for n in range(8)]


def test_a_rolling_restart_is_not_noticed(gem_bin: Path, tmp_path: Path) -> None:
    rounds = 1 + int(os.environ.get("GEM_MESH_ROUNDS", "10")) // 25
    with Mesh(gem_bin, tmp_path) as mesh:
        mesh.grow(3)
        mesh.wait_healthy()
        workload = MeshWorkload(mesh.urls, TOPICS, 1)
        phases = Phases(workload)
        workload.start()
        try:
            phases.begin("before")
            time.sleep(4.0)
            phases.begin("restarts")
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
            phases.begin("after")
            time.sleep(4.0)
            shown = phases.show()
            # Fails where a batch that was refused or unheard was not settled by retrying it.
            workload.finish()
            counts = workload.check()
        finally:
            workload.stop()
        print(f"\nrolling restart of three, {rounds} times: {counts}, refusals {dict(workload.retries)}")
        print(f"slowest stop {max(stops):.2f} s, start {max(starts):.2f} s\n{shown}")
