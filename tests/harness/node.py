"""A node as a process: started, killed, started again."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import time
from pathlib import Path

READY = re.compile(r"^ready node=(\S+) http=(http://\S+)")


class Node:
    """One `gem start`. The address stays the same over restarts."""

    def __init__(self, gem_bin: Path, data: Path, *args: str, env: dict[str, str] | None = None) -> None:
        self.gem_bin = gem_bin
        self.data = data
        self.args = list(args)
        self.env = env or {}
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.id = ""
        self.process: subprocess.Popen[bytes] | None = None
        self.log = data.parent / f"{data.name}.log"
        self.wrapper: list[str] = []

    def start(self, timeout: float = 60.0) -> float:
        """Starts it and waits for its ready line; answers the seconds that took."""
        began = time.monotonic()
        self.spawn()
        assert self.process is not None and self.process.stdout is not None
        out = self.process.stdout
        line = b""
        while b"\n" not in line:
            left = began + timeout - time.monotonic()
            readable, _, _ = select.select([out], [], [], max(0.0, left))
            chunk = os.read(out.fileno(), 4096) if readable else b""
            if not chunk:
                self.stop_hard()
                raise AssertionError(f"not ready within {timeout} s; its log ends with:\n{self.log_tail()}")
            line += chunk
        match = READY.match(line.decode())
        assert match, f"the ready line is {line!r}"
        self.id, self.url = match.group(1), match.group(2)
        return time.monotonic() - began

    def spawn(self) -> None:
        """Starts it without waiting."""
        command = [
            *self.wrapper, str(self.gem_bin), "start",
            "--data", str(self.data), "--listen", f"127.0.0.1:{self.port}", *self.args,
        ]  # fmt: skip
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, env={**os.environ, **self.env}
            )

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self, timeout: float = 15.0) -> int:
        """SIGTERM; answers the exit status."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout)

    def stop_hard(self) -> None:
        """Ends it however it stands."""
        if self.process is not None:
            if self.process.poll() is None:
                self.process.kill()
            self.process.wait()
            if self.process.stdout is not None:
                self.process.stdout.close()

    def log_tail(self, size: int = 4000) -> str:
        return self.log.read_text(errors="replace")[-size:] if self.log.exists() else ""

    def resident_bytes(self) -> int:
        """Memory of the process now, in bytes."""
        fields = Path(f"/proc/{self.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    def written_bytes(self) -> int:
        """Bytes the process sent to the block layer."""
        for line in Path(f"/proc/{self.pid}/io").read_text().splitlines():
            if line.startswith("write_bytes:"):
                return int(line.split()[1])
        raise AssertionError("no write_bytes in /proc/PID/io")

    def cpu_seconds(self) -> float:
        """User and system time of the process so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def disk_bytes(self) -> int:
        """What the data directory takes on the disk."""
        total = 0
        for root, _, files in os.walk(self.data):
            for name in files:
                try:
                    total += os.stat(os.path.join(root, name)).st_blocks * 512
                except FileNotFoundError:
                    pass  # recycled while we looked
        return total


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def wait_for(condition, timeout: float = 30.0, what: str = "the condition"):  # type: ignore[no-untyped-def]
    """Polls until `condition()` is true; answers its value."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what} did not come within {timeout} s"
        time.sleep(0.02)
