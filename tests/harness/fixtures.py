"""What every test shares: the built binary, and nodes that are real processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.node import Node


@pytest.fixture(scope="session")
def gem_bin() -> Path:
    path = Path(os.environ.get("GEM_BIN", ""))
    if not path.is_file():
        pytest.exit("GEM_BIN names no binary: run the tests with ./dev test", returncode=2)
    return path


@pytest.fixture
def node(gem_bin: Path, tmp_path: Path) -> Iterator[Node]:
    """A running node on a fresh directory."""
    node = Node(gem_bin, tmp_path / "data")
    node.start()
    yield node
    node.stop_hard()


@pytest.fixture(scope="module")
def shared_node(gem_bin: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A running node that the tests of one file share."""
    node = Node(gem_bin, tmp_path_factory.mktemp("node") / "data")
    node.start()
    yield node
    node.stop_hard()
