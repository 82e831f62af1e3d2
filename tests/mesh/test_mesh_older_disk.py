"""A node comes back with an older copy of its own disk: what it had confirmed is not there any more."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from harness.mesh import Mesh, until
from harness.mesh_workload import MeshWorkload


def test_an_older_disk_elects_nobody_who_lacks_what_it_confirmed(gem_bin: Path, tmp_path: Path) -> None:
    """n1 and n3 store while n2 is away; n3's disk is set back, n1 stops: n2 and n3 are a majority that knows nothing.

    One disk of three was lost, so nothing acknowledged may be: n3 is turned away and says what to do; until n1 is
    back the shards wait.
    """
    with Mesh(gem_bin, tmp_path) as mesh:
        mesh.grow(3)
        mesh.wait_healthy()
        n1, n2, n3 = mesh.nodes
        workload = MeshWorkload(mesh.urls, [f"t{n}" for n in range(8)], 1, members=0)
        workload.start()
        try:
            time.sleep(1.0)
            assert n3.stop() == 0
            older = tmp_path / "older"
            shutil.copytree(n3.data, older)
            n3.start()
            mesh.wait_ready()
            time.sleep(2.0)
            n2.pause()
            workload.urls[:] = [n1.url, n3.url]
            time.sleep(2.0)
            workload.wait_served(time.monotonic())
            time.sleep(2.0)
            workload.stop_publishing()
            n3.kill()
            n1.kill()
            n2.resume()
            shutil.rmtree(n3.data)
            older.rename(n3.data)
            n3.spawn()
            assert n3.process is not None and n3.process.wait(timeout=30) == 1, "it ends by itself"
            last = n3.log.read_text().strip().splitlines()[-1]
            assert "set back" in last and "--join" in last, last
            n1.start()
            until(lambda: n1.is_ready() and n2.is_ready(), 60.0, mesh.describe)
            # What is left of it is taken away: it comes again as a new node.
            shutil.rmtree(n3.data)
            n3.start()
            mesh.wait_ready()
            workload.urls[:] = mesh.urls
            workload.finish()
            print(f"\nan older disk: {workload.check()}")
        finally:
            workload.stop()
