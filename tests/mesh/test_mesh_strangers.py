"""Who does not belong into a mesh, or comes back as another: the mesh goes on, and whoever is refused hears why."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.mesh import Mesh, MeshNode, until
from harness.mesh_workload import MeshWorkload


#: How TLS, libp2p and HTTP begin: what follows is noise.
HEADS = (b"", b"\x16\x03\x01\x02\x00\x01", b"\x13/multistream/1.0.0\n", b"GET / HTTP/1.1\r\n\r\n")


@pytest.fixture(scope="module")
def trio(gem_bin: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A mesh of three that the tests of this file share; it must be whole after each of them."""
    with Mesh(gem_bin, tmp_path_factory.mktemp("trio")) as mesh:
        mesh.grow(3)
        mesh.wait_healthy()
        yield mesh


@contextlib.contextmanager
def served(mesh: Mesh, topic: str, slowest: float = 2.0) -> Iterator[None]:
    """The mesh takes publishes through every node meanwhile, none slower than `slowest` seconds."""
    workload = MeshWorkload(mesh.urls, [topic], 1, members=0)
    workload.start()
    try:
        time.sleep(0.5)
        began = time.monotonic()
        yield
        time.sleep(0.5)
        workload.finish()
        counts = workload.check()
        longest = max(ack.took for ack in workload.acks if ack.at > began)
        print(f"\n{topic}: {counts['published']} stored, the slowest in {longest * 1000:.0f} ms; {dict(workload.retries)}")
        assert longest < slowest
    finally:
        workload.stop()
    mesh.wait_healthy(30.0)


def outsider(mesh: Mesh, directory: Path, *args: str, env: dict[str, str] | None = None) -> MeshNode:
    return MeshNode(mesh.gem_bin, directory / "outsider", "outsider", *args, env=env)


def ends(node: MeshNode, timeout: float = 75.0) -> str:
    """Waits until it ends by itself, with a failure; answers the last line it said."""
    node.spawn()
    assert node.process is not None
    try:
        assert node.process.wait(timeout) != 0
    finally:
        node.stop_hard()
    return node.log_tail().strip().splitlines()[-1]


def test_without_the_secret_nobody_joins(trio: Mesh, tmp_path: Path) -> None:
    with served(trio, "secret"):
        none = outsider(trio, tmp_path / "none", "--join", trio.nodes[0].mesh, env={"GEM_SECRET": ""})
        none.data.parent.mkdir()
        assert "--secret-file" in ends(none)
        wrong = outsider(trio, tmp_path / "wrong", "--join", trio.nodes[0].mesh, env={"GEM_SECRET": "x" * 40})
        wrong.data.parent.mkdir()
        said = ends(wrong)
        assert "secret" in said and trio.nodes[0].mesh in said, said
    assert trio.status()["nodes"] == 3


def test_a_node_of_another_mesh_is_not_let_in(trio: Mesh, tmp_path: Path) -> None:
    other = outsider(trio, tmp_path)
    other.start()
    first = other.get("/v1/mesh")
    assert other.stop() == 0
    with served(trio, "other"):
        other.args += trio.joining()
        other.spawn()
        try:
            # It stays what it is, or refuses to start; in neither case does either mesh change.
            said = until(lambda: verdict(other), 75.0, other.log_tail)
        finally:
            other.stop_hard()
        print(f"\na node of another mesh, told to join: {said}")
    assert trio.status()["nodes"] == 3 and trio.status()["mesh"] != first["mesh"]


def verdict(node: MeshNode) -> str:
    if not node.is_running():
        return "ends with: " + node.log_tail().strip().splitlines()[-1]
    status = node.get("/v1/mesh", 1.0)
    return f"goes on in a mesh of {status['nodes']}" if status else ""


def test_noise_on_its_ports_does_not_disturb_it(trio: Mesh) -> None:
    rng = random.Random(1)
    ports = [port for node in trio.nodes for port in (node.mesh_port, node.bulk_port)]
    with served(trio, "noise"):
        for _ in range(40):
            for port in ports:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 2.0) as s:
                    s.settimeout(0.05)
                    s.sendall(rng.choice(HEADS) + rng.randbytes(rng.randint(1, 5000)))
                    s.recv(100)
    for node in trio.nodes:
        assert node.is_ready()
        assert "panick" not in node.log.read_text(errors="replace")


def test_silent_peers_hold_up_nobody(trio: Mesh) -> None:
    """Many that connect and say nothing, and do not read what they are told."""
    held: list[socket.socket] = []
    with served(trio, "silent"):
        for node in trio.nodes:
            for port in (node.mesh_port, node.bulk_port):
                for _ in range(100):
                    with contextlib.suppress(OSError):
                        s = socket.socket()
                        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                        s.settimeout(2.0)
                        s.connect(("127.0.0.1", port))
                        held.append(s)
        before = [len(os.listdir(f"/proc/{node.pid}/fd")) for node in trio.nodes]
        # The nodes must be able to find each other again meanwhile.
        node = trio.nodes[2]
        node.kill()
        node.start()
        trio.wait_ready()
        trio.wait_healthy(30.0)
    print(f"{len(held)} silent connections; open files of the nodes {before}")
    for s in held:
        s.close()


def test_a_paused_node_that_is_talked_to_blocks_nobody(trio: Mesh) -> None:
    """A peer that stops reading: its links fill, and the others go on."""
    node = trio.nodes[1]
    trio_without = [other.url for other in trio.nodes if other is not node]
    workload = MeshWorkload(trio_without, [f"paused{n}" for n in range(4)], 1, members=0, batch=20, pad=4000)
    workload.start()
    try:
        time.sleep(1.0)
        memory = [other.resident_bytes() for other in trio.nodes]
        node.pause()
        time.sleep(8.0)
        workload.wait_served(time.monotonic(), 10.0)
        grown = [now - then for now, then in zip([other.resident_bytes() for other in trio.nodes], memory, strict=True)]
        node.resume()
        trio.wait_ready()
        workload.finish()
        print(f"\n{workload.check()}; memory grew by {[grew >> 20 for grew in grown]} MiB while one did not read")
    finally:
        if node.is_paused:
            node.resume()
        workload.stop()
    trio.wait_healthy(30.0)
    assert max(grown) < 256 << 20


def test_restarts_need_no_join(trio: Mesh) -> None:
    """Once a node has met the others it finds them by itself."""
    for node in trio.nodes[1:]:
        at = node.args.index("--join")
        del node.args[at : at + 4]
    for node in trio.nodes:
        node.kill()
    for node in trio.nodes:
        node.spawn()
    trio.wait_ready()
    trio.wait_healthy(30.0)
    assert trio.status()["nodes"] == 3


def test_a_node_that_lost_its_disk_comes_back_as_another(gem_bin: Path, tmp_path: Path) -> None:
    """Its replicas are built anew, and count for nothing until they are."""
    config = tmp_path / "gem.toml"
    config.write_text('replace_after = "5s"\n')
    with Mesh(gem_bin, tmp_path, "--config", str(config)) as mesh:
        mesh.grow(3)
        mesh.wait_healthy()
        workload = MeshWorkload(mesh.urls, [f"t{n}" for n in range(6)], 1)
        workload.start()
        try:
            time.sleep(2.0)
            victim = mesh.nodes[2]
            old = victim.id
            victim.kill()
            shutil.rmtree(victim.data)
            began = time.monotonic()
            victim.start()
            assert victim.id != old
            until(lambda: old not in seats(mesh) and victim.id in seats(mesh), 120.0, mesh.describe)
            mesh.wait_ready()
            print(f"\nan emptied disk is replaced after {time.monotonic() - began:.1f} s")
            # Now the other two may go, one after the other.
            for node in mesh.nodes[:2]:
                node.kill()
                time.sleep(1.0)
                node.start()
                mesh.wait_ready()
            workload.finish()
            print(workload.check())
        finally:
            workload.stop()


def seats(mesh: Mesh) -> set[str]:
    """The nodes that hold a replica."""
    return {seat["node"] for shard in mesh.shards() for seat in shard["replicas"]}


def test_three_that_join_each_other_found_nothing(gem_bin: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s" * 40)
    nodes = [MeshNode(gem_bin, tmp_path / f"n{n}", f"n{n}", "--secret-file", str(secret)) for n in range(3)]
    for node in nodes:
        node.args += [arg for other in nodes if other is not node for arg in ("--join", other.mesh)]
    said: dict[str, str] = {}
    threads = [threading.Thread(target=lambda node=node: said.update({node.name: ends(node, 120.0)})) for node in nodes]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(130.0)
    finally:
        for node in nodes:
            node.stop_hard()
    print(f"\nthree that join each other: {said}")
    assert len(said) == 3
    assert all("without --join" in line for line in said.values()), said


def test_a_copy_of_a_node_beside_it_disturbs_nobody(trio: Mesh, tmp_path: Path) -> None:
    """Two processes that claim to be one node."""
    node = trio.nodes[2]
    node.kill()
    copy = MeshNode(trio.gem_bin, tmp_path / "copy", "copy")
    shutil.copytree(node.data, copy.data)
    node.start()
    trio.wait_ready()
    try:
        copy.spawn()
        with served(trio, "copy"):
            time.sleep(8.0)
        assert not copy.is_ready()
    finally:
        copy.stop_hard()
