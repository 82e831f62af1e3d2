"""Many topics. GEM_TOPICS sets how many (default 1000); 10,000 is what is promised."""

from __future__ import annotations

import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from harness.node import Node
from harness.rest import Rest


def test_many_topics_over_a_restart(gem_bin: Path, tmp_path: Path) -> None:
    count = int(os.environ.get("GEM_TOPICS", "1000"))
    ballast_mib = int(os.environ.get("GEM_BALLAST_MIB", "256"))
    node = Node(gem_bin, tmp_path / "data")
    node.start()
    try:
        subprocess.run(
            [str(gem_bin), "bench", "publish", "--url", node.url, "--topic", "ballast", "--size", "1KiB", "--batch", "1000",
             "--messages", str(ballast_mib * 1024), "--json"],
            check=True, capture_output=True, timeout=300,
        )  # fmt: skip
        seconds = {}

        def each(what: str, act) -> None:  # type: ignore[no-untyped-def]
            began = time.monotonic()
            chunks = [range(n, count, 16) for n in range(16)]

            def run(chunk: range) -> None:
                rest = Rest(node.url)
                for number in chunk:
                    act(rest, number)

            with ThreadPoolExecutor(16) as pool:
                list(pool.map(run, chunks))
            seconds[what] = round(time.monotonic() - began, 2)

        def create(rest: Rest, number: int) -> None:
            assert rest.call("PUT", f"/v1/topics/many-{number}", {}).status == 201

        def publish(rest: Rest, number: int) -> None:
            assert rest.call("POST", f"/v1/topics/many-{number}/messages", f"m{number}").status == 201

        def read(rest: Rest, number: int) -> None:
            page = rest.call("GET", f"/v1/topics/many-{number}/messages?from=earliest").json()
            assert [m["payload"] for m in page["messages"]] == [f"m{number}"]

        each("create", create)
        each("publish", publish)
        node.kill()
        seconds["restart"] = round(node.start(), 2)
        each("read", read)
        print(f"\n{count} topics beside {ballast_mib} MiB: {seconds} s")
        # The figures promised, in proportion to the count; a floor for the small runs' noise.
        share = max(0.2, count / 10_000)
        assert all(seconds[step] < 30 * share for step in ("create", "publish", "read")), seconds
        assert seconds["restart"] < 10
    finally:
        node.stop_hard()
