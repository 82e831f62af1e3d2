"""Pressure: what can't be taken in now is refused with `throttled`, and nothing that was taken in is lost."""

from __future__ import annotations

from pathlib import Path

from harness.node import Node
from harness.rest import Refused, Rest


def test_a_full_table_of_ids_throttles_messages_with_ids_alone(gem_bin: Path, tmp_path: Path) -> None:
    config = tmp_path / "gem.toml"
    config.write_text('dedup_bytes = "1MiB"\n')
    node = Node(gem_bin, tmp_path / "data", "--config", str(config))
    node.start()
    try:
        rest = Rest(node.url)
        stored = 0
        refused = None
        for round in range(400):
            try:
                results = rest.publish("t", [{"id": f"{round}-{n}", "payload": "x"} for n in range(500)])
            except Refused as error:
                refused = error
                assert error.code == "throttled", error
                assert "retry-after" in error.answer.headers
                break
            stored += sum("offset" in r for r in results)
            bad = [r for r in results if "error" in r]
            if bad:
                assert bad[0]["error"]["code"] == "throttled", bad[0]
                break
        else:
            raise AssertionError(f"{stored} ids fit into 1 MiB")
        # Its first id is still known, messages without ids go on.
        again = rest.publish("t", [{"id": "0-0", "payload": "again"}])[0]
        assert again["duplicate"] and again["offset"] == 0
        assert "offset" in rest.publish("t", [{"payload": "no id"}])[0]
        print(f"\n{stored} ids stored before {refused or 'the results said throttled'}")
    finally:
        node.stop_hard()
