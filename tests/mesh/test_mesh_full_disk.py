"""The disk of one node of three is full: the others go on, the operator sees it, and room heals it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.mesh import Mesh, until
from harness.mesh_phases import Phases, led
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
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_one_full_disk_of_three(gem_bin: Path, tmp_path: Path, small_disk: Path) -> None:
    config = tmp_path / "gem.toml"
    config.write_text(CONFIG)
    with Mesh(gem_bin, tmp_path, "--config", str(config)) as mesh:
        mesh.grow(3)
        mesh.wait_healthy()
        # It leads some shards, and follows in others.
        until(lambda: min(led(mesh)) > 3, 90.0, lambda: f"leaderships {led(mesh)}")
        one, _, full = mesh.nodes
        workload = MeshWorkload(mesh.urls, TOPICS, 3, pad=2000)
        phases = Phases(workload)
        workload.start()
        try:
            phases.begin("before")
            time.sleep(3.0)
            foreign = small_disk / "foreign"
            fill(foreign, small_disk)
            phases.begin("full")
            # More than the node may still write.
            enough = workload.published() + 15_000
            until(lambda: workload.published() > enough or workload.faults, 120.0,
                  lambda: f"{workload.published()} of {enough}, {dict(workload.retries)}; {mesh.describe()}")  # fmt: skip
            # Everything is stored, whichever node it is published through.
            workload.wait_served(time.monotonic())
            assert not workload.faults, workload.faults[:5]
            assert full.is_running()
            for node in (one, full):
                print(f"\nwhile the disk of n3 is full, {node.name} says, ready={node.is_ready()}:\n{mesh.command('status', of=node)}")
            print("n3 logs:\n" + "\n".join(line[:300] for line in full.log.read_text().splitlines() if "ERROR gem" in line))
            status = mesh.command("status", of=one)
            assert "the disk of node n3 is full" in status, status
            assert "would stop with the loss of one more node" in status.splitlines()[0], "n3 holds nothing of what came since"
            foreign.unlink()
            phases.begin("room again")
            began = time.monotonic()
            mesh.wait_ready(30.0)
            mesh.wait_healthy(60.0)
            print(f"whole {time.monotonic() - began:.1f} s after there was room\n" + mesh.command("status"))
            time.sleep(3.0)
            print(phases.show())
            workload.finish()
            print(f"{workload.check()}, refusals {dict(workload.retries)}")
            # What came while its disk was full must be with it: another goes, so it has to confirm or lead.
            one.kill()
            workload.check([node.url for node in mesh.nodes[1:]])
        finally:
            workload.stop()


def fill(foreign: Path, disk: Path) -> None:
    """Leaves less than the reserve."""
    space = os.statvfs(disk)
    with foreign.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, space.f_bavail * space.f_frsize - 20 * MIB)
