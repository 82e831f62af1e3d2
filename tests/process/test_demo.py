"""`gem demo`: its proof holds on a mesh that loses a node, and on one node that is started again."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def events() -> Path:
    path = Path(os.environ.get("EVENTS", ""))
    if not path.is_file():
        pytest.skip("EVENTS names no file of webhook payloads: run the tests with ./dev test")
    return path


def demo(gem_bin: Path, events: Path, *args: str) -> dict[str, Any]:
    command = [str(gem_bin), "demo", "--input", str(events), "--without-python", "--json", *args]
    out = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert out.stdout, out.stderr
    verdict: dict[str, Any] = json.loads(out.stdout)
    assert verdict["holds"] and out.returncode == 0, (verdict["failures"], out.stderr)
    assert verdict["acknowledged"] == verdict["stored"] == verdict["processed"] == 20_000
    return verdict


def test_a_mesh_loses_a_node_and_nothing_else(gem_bin: Path, events: Path) -> None:
    verdict = demo(gem_bin, events)
    assert verdict["nodes"] == 3 and verdict["killed"] and verdict["killed_led"]
    # Read back through the newcomer, which took no publish.
    assert verdict["joined"]["node"] == verdict["read_through"] == "n4"
    assert {name: share["processed"] for name, share in verdict["groups"].items()} == {
        "processors": 20_000,
        "archive": 20_000,
    }
    assert 0 < verdict["recovery_ms"] < 15_000
    assert set(verdict["pause_ms"]) == {"grpc", "rest", "processors", "archive"}


def test_one_node_comes_back(gem_bin: Path, events: Path) -> None:
    verdict = demo(gem_bin, events, "--nodes", "1", "--rate", "5000")
    assert verdict["read_through"] == verdict["killed"] == "n1" and verdict["joined"] is None
    assert 0 < verdict["restart_ms"] <= verdict["recovery_ms"]
