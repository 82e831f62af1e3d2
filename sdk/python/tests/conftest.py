"""Shares the fixtures of the tests of the node."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "tests"))

from conftest import gem_bin, node, shared_node  # noqa: E402,F401
