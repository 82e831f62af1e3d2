"""kill -9 under load, at random instants, again and again. GEM_KILL_ROUNDS sets how often (default 2)."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

from harness.node import Node
from harness.rest import Rest
from harness.workload import Workload, digest


def test_kill_nine_under_load(gem_bin: Path, tmp_path: Path) -> None:
    rounds = int(os.environ.get("GEM_KILL_ROUNDS", "2"))
    seed = int(os.environ.get("GEM_SEED", "1"))
    rng = random.Random(seed)
    node = Node(gem_bin, tmp_path / "data")
    node.start()
    try:
        workload = Workload(node.url, "work", seed)
        workload.start()
        known: dict[tuple[int, int], str] = {}
        slowest = 0.0
        for _ in range(rounds):
            time.sleep(rng.uniform(0.2, 2.0))
            node.kill()
            slowest = max(slowest, node.start())
            now = digest(Rest(node.url), "work")
            moved = [place for place, id in known.items() if now.get(place) != id]
            assert not moved, f"places changed over the restart: {moved[:5]} (seed {seed})"
            known = now
        time.sleep(0.5)
        workload.finish()
        counts = workload.check()
        print(f"\nkill -9: {rounds} rounds, seed {seed}: {counts}, slowest restart {slowest:.2f} s")
        assert counts["stored"] > 100 * rounds
    finally:
        node.stop_hard()


def test_sigterm_loses_nothing_and_exits_zero(gem_bin: Path, tmp_path: Path) -> None:
    node = Node(gem_bin, tmp_path / "data")
    node.start()
    try:
        workload = Workload(node.url, "work", 7)
        workload.start()
        time.sleep(1.0)
        assert node.stop(15.0) == 0
        node.start()
        workload.finish()
        workload.check()
    finally:
        node.stop_hard()
