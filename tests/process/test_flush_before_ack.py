"""Single publishes are flushed before their ack: read off a trace of the node's system calls."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

from harness.node import Node
from harness.rest import Rest

LINE = re.compile(r"^(?P<pid>\d+)\s+(?P<at>[\d.]+)\s+(?P<rest>.*)$")


def calls(trace: str) -> list[tuple[str, str]]:
    """(name, whole text) of each system call in the order in which they ended; halves are joined."""
    out = []
    pending: dict[str, str] = {}
    for line in trace.splitlines():
        match = LINE.match(line)
        if not match:
            continue
        pid, text = match["pid"], match["rest"]
        if text.endswith("<unfinished ...>"):
            pending[pid] = text.removesuffix("<unfinished ...>")
            continue
        if text.startswith("<... "):
            text = pending.pop(pid, "") + text.split("resumed>", 1)[1]
        name = text.split("(", 1)[0]
        out.append((name, text))
    return out


def test_a_publish_is_flushed_before_its_ack(gem_bin: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    node = Node(gem_bin, tmp_path / "data")
    node.wrapper = [
        "strace", "-f", "-ttt", "-y", "-s", "4096", "-o", str(trace), "-e", "signal=none", "-e",
        "trace=write,writev,pwrite64,pwritev,pwritev2,sendto,sendmsg,fdatasync,fsync,io_uring_enter",
    ]  # fmt: skip
    node.start(120)
    markers = [f"marker-{n}-of-a-single-publish" for n in range(10)]
    try:
        rest = Rest(node.url)
        for marker in markers:
            assert rest.call("POST", "/v1/topics/t/messages", marker, {"gem-id": f"id-{marker}"}).status == 201
    finally:
        assert node.process is not None
        # strace is the child; the node dies with its own SIGTERM.
        for child in Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGTERM)
        node.process.wait(30)
        node.stop_hard()
    sequence = calls(trace.read_text(errors="replace"))
    for marker in markers:
        written = next(
            i for i, (name, text) in enumerate(sequence) if name.startswith("pwrite") and marker in text and "/data/" in text
        )
        target = re.search(r"\d+<([^>]+)>", sequence[written][1])
        assert target, sequence[written]
        answered = next(
            i
            for i, (name, text) in enumerate(sequence)
            if name in ("write", "writev", "sendto", "sendmsg") and "HTTP/1.1 201" in text and f"id-{marker}" in text
        )
        flushed = [
            i
            for i, (name, text) in enumerate(sequence)
            if name in ("fdatasync", "fsync") and target.group(1) in text and text.rstrip().endswith("= 0")
        ]
        assert any(written < i < answered for i in flushed), f"{marker}: written at {written}, answered at {answered}"
