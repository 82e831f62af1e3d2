"""ARCHITECTURE.md stays true: its crate arrows are Cargo's, and every file it names is there."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "ARCHITECTURE.md").read_text()


def drawn_arrows() -> dict[str, set[str]]:
    block = re.search(r"```arrows\n(.*?)```", PAGE, re.S)
    assert block, "ARCHITECTURE.md has no block of arrows"
    arrows = {}
    for line in block.group(1).strip().splitlines():
        crate, targets = line.split("→")
        arrows[crate.strip()] = {t.strip() for t in targets.split(",") if t.strip() not in ("", "-")}
    return arrows


def test_the_arrows_drawn_are_the_real_ones() -> None:
    out = subprocess.run(
        ["cargo", "metadata", "--no-deps", "--format-version", "1", "--locked"], cwd=ROOT, check=True, capture_output=True
    )
    real = {
        package["name"]: {
            d["name"] for d in package["dependencies"] if d["name"].startswith("gem-") and d["kind"] != "dev"
        }
        for package in json.loads(out.stdout)["packages"]
    }
    assert drawn_arrows() == real


def test_the_arrows_point_one_way() -> None:
    arrows = drawn_arrows()

    def reaches(start: str, goal: str) -> bool:
        return any(t == goal or reaches(t, goal) for t in arrows[start])

    assert not [crate for crate in arrows if reaches(crate, crate)]
    assert not reaches("gem-store", "gem-shard") and not reaches("gem-shard", "gem-node")


def test_every_file_that_is_named_is_there() -> None:
    named = set(re.findall(r"`((?:crates|proto|sdk|tests|docs|scripts|fuzz)/[\w./-]+)`", PAGE))
    assert len(named) > 20
    missing = sorted(name for name in named if not (ROOT / name).exists())
    assert not missing, f"ARCHITECTURE.md names what is not there: {missing}"
