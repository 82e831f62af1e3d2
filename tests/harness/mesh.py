"""A mesh of nodes as processes on loopback: started, killed, paused, grown."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from harness.node import Node
from harness.rest import Rest

#: A node that holds none of a mesh's load needs no more.
MEMORY = "256MiB"

T = TypeVar("T")


class MeshNode(Node):
    """A node of a mesh. All its addresses stay the same over restarts."""

    def __init__(self, gem_bin: Path, data: Path, name: str, *args: str, env: dict[str, str] | None = None) -> None:
        quiet = {"RUST_LOG": os.environ.get("RUST_LOG", "info,openraft=error,libp2p_swarm=warn")}
        super().__init__(gem_bin, data, env={**quiet, **(env or {})})
        self.name = name
        self.port, self.mesh_port, self.bulk_port = quiet_ports(3)
        self.url = f"http://127.0.0.1:{self.port}"
        self.mesh = f"127.0.0.1:{self.mesh_port}"
        self.args = [
            "--mesh", self.mesh, "--mesh-bulk", f"127.0.0.1:{self.bulk_port}",
            "--name", name, "--memory", MEMORY, *args,
        ]  # fmt: skip
        self.is_paused = False

    def pause(self) -> None:
        """SIGSTOP: it lives, and answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)
        self.is_paused = True

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)
        self.is_paused = False

    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def get(self, path: str, timeout: float = 5.0) -> Any:
        """What a GET answers, as JSON; `None` where it answers anything but 200, or nothing."""
        try:
            answer = Rest(self.url, timeout).call("GET", path)
        except OSError:
            return None
        return answer.json() if answer.status == 200 else None

    def metrics(self) -> list[str]:
        """The lines of its metrics."""
        return Rest(self.url, 5.0).call("GET", "/metrics").body.decode().splitlines()

    def is_ready(self) -> bool:
        if not self.is_running() or self.is_paused:
            return False
        try:
            return Rest(self.url, 2.0).call("GET", "/readyz").status == 200
        except OSError:
            return False


class Mesh:
    """The first node founds, the others join it."""

    def __init__(self, gem_bin: Path, directory: Path, *args: str) -> None:
        self.gem_bin = gem_bin
        self.directory = directory
        self.args = args
        self.nodes: list[MeshNode] = []

    def __enter__(self) -> Mesh:
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            node.stop_hard()

    @property
    def secret_file(self) -> Path:
        return self.nodes[0].data / "join-secret"

    @property
    def urls(self) -> list[str]:
        return [node.url for node in self.nodes]

    def joining(self) -> list[str]:
        """What a node is started with to come into this mesh."""
        return ["--join", self.nodes[0].mesh, "--secret-file", str(self.secret_file)]

    def add(self, *args: str) -> MeshNode:
        """Starts one node more; answers once it takes traffic."""
        name = f"n{len(self.nodes) + 1}"
        joining = self.joining() if self.nodes else []
        node = MeshNode(self.gem_bin, self.directory / name, name, *joining, *self.args, *args)
        self.nodes.append(node)
        node.start()
        return node

    def grow(self, size: int) -> None:
        while len(self.nodes) < size:
            self.add()

    def running(self) -> list[MeshNode]:
        return [node for node in self.nodes if node.is_running()]

    def wait_ready(self, timeout: float = 60.0) -> float:
        """Waits until every node takes traffic; answers the seconds that took."""
        began = time.monotonic()
        until(lambda: all(node.is_ready() for node in self.nodes), timeout, self.describe)
        return time.monotonic() - began

    def status(self, node: MeshNode | None = None) -> dict[str, Any]:
        """What a running node says of the mesh."""
        status: dict[str, Any] | None = (node or self.running()[0]).get("/v1/mesh")
        return status or {}

    def command(self, *args: str, of: MeshNode | None = None) -> str:
        """What `gem mesh …` prints, asked of the last node of the mesh or of another; it must succeed."""
        command = [str(self.gem_bin), "mesh", *args, "--url", (of or self.nodes[-1]).url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def shards(self, node: MeshNode | None = None) -> list[dict[str, Any]]:
        answer = (node or self.running()[0]).get("/v1/mesh/shards")
        shards: list[dict[str, Any]] = answer["shards"] if isinstance(answer, dict) else answer or []
        return shards

    def leader_of(self, topic: str) -> MeshNode | None:
        """The node that leads the home shard of a topic, as the mesh tells it."""
        bits = f"{home(topic):064b}"
        for shard in self.shards():
            if bits.startswith(shard["prefix"]):
                return next((node for node in self.nodes if node.id == shard["leader"]), None)
        return None

    def is_healthy(self) -> bool:
        """Whether every running node sees every shard replicated as it should be."""
        for node in self.running():
            status = self.status(node)
            if not status or status["shards"] == 0 or status["healthy"] != status["shards"]:
                return False
        return True

    def wait_healthy(self, timeout: float = 120.0) -> float:
        """Waits until every shard has the replicas it should; answers the seconds that took."""
        began = time.monotonic()
        until(self.is_healthy, timeout, self.describe)
        return time.monotonic() - began

    def describe(self) -> str:
        """How the mesh stands, for the message of a test that failed."""
        lines = []
        for node in self.nodes:
            state = "paused" if node.is_paused else "running" if node.is_running() else "down"
            lines.append(f"{node.name} {state} {node.url} ready={node.is_ready()} mesh={node.get('/v1/mesh', 2.0)}")
        return "\n".join(lines)


def until(condition: Callable[[], T], timeout: float, what: Callable[[], str] | str) -> T:
    """Polls until `condition()` is true; answers its value."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"did not come within {timeout} s: {what if isinstance(what, str) else what()}")
        time.sleep(0.05)


def home(topic: str) -> int:
    """The position of a topic on the ring."""
    digest = hashlib.sha256()
    for part in (b"gem topic", topic.encode()):
        digest.update(len(part).to_bytes(8, "big") + part)
    return int.from_bytes(digest.digest()[:8], "big")


_taken: set[int] = set()


def quiet_ports(count: int) -> list[int]:
    """Free ports below those that outgoing connections take, so that a node that is down gets its own back."""
    rng = random.SystemRandom()
    found: list[int] = []
    while len(found) < count:
        port = rng.randint(20_000, 32_000)
        if port in _taken:
            continue
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
        _taken.add(port)
        found.append(port)
    return found
