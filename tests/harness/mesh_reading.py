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


class Reader:
    """One topic through one node, read on from where the last reading ended."""

    def __init__(self, url: str, topic: str) -> None:
        self.url = url
        self.topic = topic
        self.messages = 0
        self._digest = hashlib.sha256()
        self._query = "from=earliest"
        self._places: dict[str, list[Place]] = defaultdict(list)
        self._next: dict[str, int] = defaultdict(int)
        self._disordered: list[str] = []

    def read_on(self, timeout: float = 60.0) -> None:
        """Reads to the end; tried again while the topic's shard has no leader."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                answer = Rest(self.url, 30.0).call("GET", f"/v1/topics/{self.topic}/messages?{self._query}&limit=5000")
                if answer.status != 200:
                    raise Refused(answer)
            except (OSError, Refused) as error:
                if getattr(error, "code", PASSING[0]) not in PASSING or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
                continue
            page = answer.json()
            for message in page["messages"]:
                self._take(message)
            if not page["messages"]:
                return
            self._query = f"cursor={page['cursor']}"

    def _take(self, message: dict[str, Any]) -> None:
        key, number = message["key"], message["payload"]["n"]
        self._places[message["id"]].append((message["partition"], message["offset"]))
        if number != self._next[key]:
            self._disordered.append(f"{key}: {number} where {self._next[key]} was due")
        self._next[key] = number + 1
        self.messages += 1
        parts = [message[part] for part in ("partition", "offset", "id", "key", "payload", "timestamp")]
        self._digest.update(repr(parts).encode())

    def digest(self) -> str:
        """Of all that was read, in its order."""
        return self._digest.hexdigest()

    def hold(self, stored: dict[str, Place], refused: set[str]) -> dict[str, list[str]]:
        """What is wrong with what was read, given what was acknowledged and what was refused for good."""
        places = self._places
        moved = ((id, at) for id, at in stored.items() if id in places and at not in places[id])
        return {
            "lost": [id for id in stored if id not in places],
            "twice": [f"{id}: {at}" for id, at in places.items() if len(at) > 1],
            "moved": [f"{id}: {at}, now {places[id]}" for id, at in moved],
            "disordered": self._disordered,
            "ghosts": [id for id in refused if id in places],
        }
