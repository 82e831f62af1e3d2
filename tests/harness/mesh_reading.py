"""What a topic holds, read through one node, against what its publishers were told."""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from typing import Any

from harness.rest import Refused, Rest

#: Refusals after which the same is asked again, of this node or another.
PASSING = ("throttled", "unavailable", "deadline", "internal")

Place = tuple[int, int]


def read_all(url: str, topic: str, timeout: float = 60.0) -> list[dict[str, Any]]:
    """The whole topic through one node, tried again while its shard has no leader."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            return Rest(url, 30.0).read_all(topic)
        except Refused as refused:
            if refused.code not in PASSING or time.monotonic() > deadline:
                raise
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)


def hold(read: list[dict[str, Any]], stored: dict[str, Place], refused: set[str]) -> dict[str, list[str]]:
    """What is wrong with `read`, given what was acknowledged and what was refused for good."""
    places: dict[str, list[Place]] = defaultdict(list)
    next_of: dict[str, int] = defaultdict(int)
    found: dict[str, list[str]] = {"lost": [], "twice": [], "moved": [], "disordered": []}
    for message in read:
        places[message["id"]].append((message["partition"], message["offset"]))
        key, number = message["key"], message["payload"]["n"]
        if number != next_of[key]:
            found["disordered"].append(f"{key}: {number} where {next_of[key]} was due")
        next_of[key] = number + 1
    for id, at in stored.items():
        if id not in places:
            found["lost"].append(id)
        elif at not in places[id]:
            found["moved"].append(f"{id}: {at}, now {places[id]}")
    found["ghosts"] = [id for id in refused if id in places]
    found["twice"] = [f"{id}: {at}" for id, at in places.items() if len(at) > 1]
    return found


def content(read: list[dict[str, Any]]) -> str:
    """A digest of all that is in a topic, in its order."""
    digest = hashlib.sha256()
    for message in sorted(read, key=lambda m: (m["partition"], m["offset"])):
        parts = [message[part] for part in ("partition", "offset", "id", "key", "payload", "timestamp")]
        digest.update(repr(parts).encode())
    return digest.hexdigest()
