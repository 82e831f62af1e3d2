"""The Python SDK in a mesh: the node that it talks to is killed, and publishing and delivery go on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import gem
from gem.link import Link, _told
from harness.mesh import Mesh
from harness.node import wait_for


@pytest.fixture
def three(gem_bin: Path, tmp_path: Path) -> Iterator[Mesh]:
    with Mesh(gem_bin, tmp_path) as mesh:
        mesh.grow(3)
        mesh.wait_healthy()
        yield mesh


@pytest.mark.parametrize("named", [3, 1], ids=["all are named", "one is named"])
def test_the_node_it_talks_to_is_killed(three: Mesh, named: int) -> None:
    with gem.Client(three.urls[:named], timeout=60.0) as client:
        plain: list[int] = []
        worked: list[int] = []
        client.create_topic("t", ack_timeout_ms=2000)
        with (
            client.subscribe("t", lambda m: plain.append(m.json()["n"]), from_="earliest", background=True),
            client.subscribe("t", lambda m: worked.append(m.json()["n"]), group="g", from_="earliest", background=True),
        ):
            first = [client.publish("t", {"n": n}, key="k") for n in range(200)]
            client.flush(30)
            wait_for(lambda: len(plain) >= 200 and len(set(worked)) >= 200, 30, "the first messages")
            wait_for(lambda: client._link.nodes == 3, 30, "learning the others")
            three.nodes[0].kill()
            second = [client.publish("t", {"n": n}, key="k") for n in range(200, 400)]
            offsets = [receipt.result(60).offset for receipt in first + second]
            assert offsets == sorted(offsets) and len(set(offsets)) == 400
            wait_for(lambda: len(plain) >= 400 and len(set(worked)) >= 400, 60, "every message")
        assert plain == list(range(400))
        # What was not acked when the node went comes again.
        assert sorted(set(worked)) == list(range(400))
        # A node that is down is no longer one to turn to, unless it was named.
        assert client._link.where != three.nodes[0].url.removeprefix("http://")


def test_which_nodes_can_be_turned_to() -> None:
    assert _told("http://127.0.0.1:7410", "127.0.0.1:7400") == "127.0.0.1:7410"
    assert _told("http://127.0.0.1:7410", "localhost:7400") == "127.0.0.1:7410"
    assert _told("http://127.0.0.1:7410", "10.0.0.1:7400") is None
    assert _told("http://10.0.0.2:7400", "10.0.0.1:7400") == "10.0.0.2:7400"
    assert _told("http://0.0.0.0:7400", "10.0.0.1:7400") is None
    assert _told("", "10.0.0.1:7400") is None
    assert Link("http://a:1,http://b:2").nodes == 2
