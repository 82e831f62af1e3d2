"""The disk of one node of three is full: the others go on, the operator sees it, and room heals it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.mesh import Mesh, until
from harness.mesh_phases import Phases
from harness.mesh_workload import MeshWorkload

MIB = 1 << 20
TOPICS = [f"t{n}" for n in range(8)]
CONFIG = 'journal_file_size = "4MiB"\njournal_limit = "1GiB"\ndisk_reserve = "32MiB"\nmax_batch = "2MiB"\n'


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """The data directory of the third node, a file system of its own."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs takes root")
    disk = tmp_path / "n3"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_one_full_disk_of_three(gem_bin: Path, tmp_path: Path, small_disk: Path) -> None:
    config = tmp_path / "gem.toml"
    config.write_text(CONFIG)
    with Mesh(gem_bin, tmp_path, "--config", str(config)) as mesh:
        mesh.grow(3)
        mesh.wait_healthy()
        full = mesh.nodes[2]
        workload = MeshWorkload(mesh.urls, TOPICS, 3, pad=2000)
        phases = Phases(workload)
        workload.start()
        try:
            phases.begin("before")
            time.sleep(3.0)
            foreign = small_disk / "foreign"
            fill(foreign, small_disk)
            phases.begin("full")
            # So much that the files which the node had open can't be what it goes on with.
            enough = len(full.log_tail(10 << 20))
            stored = workload.published()
            until(lambda: "disk" in full.log_tail(10 << 20)[enough:] and workload.published() > stored + 10_000 or workload.faults,
                  90.0, lambda: f"{workload.published() - stored} stored since; {mesh.describe()}")  # fmt: skip
            # Everything is stored, whichever node it is published through.
            workload.wait_served(time.monotonic())
            print("\nwhile it is full:\n" + mesh.command("status"))
            print("what the node says: " + "\n".join(full.log_tail(10 << 20)[enough:].splitlines()[:12]))
            assert full.is_running()
            assert not workload.faults, workload.faults[:5]
            foreign.unlink()
            phases.begin("room again")
            print(f"whole {mesh.wait_healthy():.1f} s after there was room\n" + mesh.command("status"))
            time.sleep(3.0)
            shown = phases.show()
            workload.finish()
            counts = workload.check()
            print(f"{counts}, refusals {dict(workload.retries)}\n{shown}")
            # What came while its disk was full must be with it: another goes, so it has to confirm or lead.
            mesh.nodes[0].kill()
            workload.check([node.url for node in mesh.nodes[1:]])
        finally:
            workload.stop()


def fill(foreign: Path, disk: Path) -> None:
    """Leaves less than the reserve."""
    space = os.statvfs(disk)
    with foreign.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, space.f_bavail * space.f_frsize - 20 * MIB)
