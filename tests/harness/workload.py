"""A workload whose every promise can be checked from the ids afterwards, whatever was killed meanwhile."""

from __future__ import annotations


import random
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from harness.rest import Refused, Rest


#: Messages that the group may be behind its publishers.
BACKLOG = 20_000


@dataclass
class Ledger:
    """What the clients were told."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    # id → (partition, offset): publishes that were acknowledged
    stored: dict[str, tuple[int, int]] = field(default_factory=dict)
    # id → the highest delivery count seen
    deliveries: dict[str, int] = field(default_factory=dict)
    # ids whose ack was confirmed
    acked: set[str] = field(default_factory=set)
    processed: set[str] = field(default_factory=set)
    redeliveries: int = 0
    faults: list[str] = field(default_factory=list)

    def fault(self, text: str) -> None:
        with self.lock:
            self.faults.append(text)


class Workload:
    """Publishers and the members of one group, each a thread of its own, over REST."""

    def __init__(self, url: str, topic: str, seed: int, publishers: int = 3, members: int = 3, mode: str = "key") -> None:
        self.url = url
        self.topic = topic
        self.mode = mode
        self.ledger = Ledger()
        self._stop_publishing = threading.Event()
        self._stop = threading.Event()
        self._publishers = [
            threading.Thread(target=self._publish, args=(n, random.Random(seed * 100 + n)), daemon=True)
            for n in range(publishers)
        ]
        self._members = [
            threading.Thread(target=self._consume, args=(n, random.Random(seed * 100 + 50 + n)), daemon=True)
            for n in range(members)
        ]

    def start(self) -> None:
        Rest(self.url).call("PUT", f"/v1/topics/{self.topic}", {"ack_timeout_ms": 500, "max_deliveries": 1000})
        for thread in self._publishers + self._members:
            thread.start()

    def finish(self, timeout: float = 120.0) -> None:
        """Stops publishing, waits until the group has worked off everything, stops."""
        self._stop_publishing.set()
        for thread in self._publishers:
            thread.join(timeout)
            assert not thread.is_alive(), "a publisher is stuck"
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and not self.ledger.faults:
            with self.ledger.lock:
                if self.ledger.acked >= self.ledger.stored.keys():
                    break
            time.sleep(0.05)
        self._stop.set()
        for thread in self._members:
            thread.join(30)

    def check(self) -> dict[str, int]:
        """Holds the ledger against what the node has; answers the counts."""
        ledger = self.ledger
        assert not ledger.faults, ledger.faults[:5]
        places: dict[str, list[tuple[int, int]]] = defaultdict(list)
        last_seq: dict[str, int] = {}
        for message in Rest(self.url).read_all(self.topic):
            places[message["id"]].append((message["partition"], message["offset"]))
            key, seq = message["key"], message["payload"]["seq"]
            assert seq > last_seq.get(key, -1), f"order of key {key}: {seq} after {last_seq[key]}"
            last_seq[key] = seq
        lost = [i for i in ledger.stored if i not in places]
        twice = [i for i, at in places.items() if len(at) > 1]
        moved = [i for i, at in ledger.stored.items() if i in places and at not in places[i]]
        skipped = ledger.stored.keys() - ledger.processed
        counts = {
            "stored": len(ledger.stored), "lost": len(lost), "twice": len(twice), "moved": len(moved),
            "skipped": len(skipped), "redelivered": ledger.redeliveries,
        }  # fmt: skip
        assert not lost, f"lost: {lost[:5]} of {counts}"
        assert not twice, f"stored twice: {twice[:5]} of {counts}"
        assert not moved, f"moved: {moved[:5]} of {counts}"
        assert not skipped, f"never processed: {list(skipped)[:5]} of {counts}"
        return counts

    def _publish(self, number: int, rng: random.Random) -> None:
        keys = [f"k{number}-{i}" for i in range(100)]
        seqs: dict[str, int] = defaultdict(int)
        sent = 0
        rest = Rest(self.url)
        while not self._stop_publishing.is_set():
            with self.ledger.lock:
                backlog = len(self.ledger.stored) - len(self.ledger.acked)
            if backlog > BACKLOG:
                # Mode key works on one message a key: unbounded, the group would never catch up.
                time.sleep(0.01)
                continue
            batch = []
            for _ in range(rng.randint(1, 40)):
                key = rng.choice(keys)
                batch.append(
                    {"id": f"{number}-{sent}", "key": key, "payload": {"seq": seqs[key], "pad": "x" * rng.randint(0, 2000)}}
                )
                seqs[key] += 1
                sent += 1
            while True:
                try:
                    results = rest.publish(self.topic, batch)
                    if all("offset" in r for r in results):
                        break
                except Refused as refused:
                    if refused.code not in ("throttled", "unavailable", "deadline", "internal"):
                        self.ledger.fault(f"publish: {refused}")
                        return
                except Exception:
                    rest = Rest(self.url)  # the node is down: the same ids again, once it is back
                time.sleep(0.02)
            with self.ledger.lock:
                for message, result in zip(batch, results, strict=True):
                    self.ledger.stored[message["id"]] = (result["partition"], result["offset"])

    def _consume(self, number: int, rng: random.Random) -> None:
        rest = Rest(self.url)
        ledger = self.ledger
        while not self._stop.is_set():
            try:
                messages = rest.pull(self.topic, "g", f"c{number}", max=50, wait_ms=200, mode=self.mode)
                ack, nack = [], []
                with ledger.lock:
                    for message in messages:
                        self._note(message)
                        chance = rng.random()
                        if chance < 0.90:
                            ack.append(message)
                        elif chance < 0.985:
                            nack.append(message)  # the rest is let lie until its lease ends
                if ack:
                    statuses = rest.settle("ack", self.topic, "g", [m["ack_token"] for m in ack])
                    with ledger.lock:
                        ledger.acked.update(m["id"] for m, s in zip(ack, statuses, strict=True) if s == "acked")
                if nack:
                    rest.settle("nack", self.topic, "g", [m["ack_token"] for m in nack], delay_ms=rng.randint(0, 300))
            except Refused as refused:
                if refused.code not in ("throttled", "unavailable", "deadline", "internal"):
                    ledger.fault(f"consume: {refused}")
                    return
            except Exception as error:
                if isinstance(error, (AssertionError, KeyError)):
                    ledger.fault(repr(error))
                    return
                rest = Rest(self.url)
                time.sleep(0.02)

    def _note(self, message: dict[str, Any]) -> None:
        ledger = self.ledger
        id, delivery = message["id"], message["delivery"]
        if id in ledger.acked:
            ledger.faults.append(f"{id} came back after its ack was confirmed (delivery {delivery})")
        before = ledger.deliveries.get(id, 0)
        if delivery <= before:
            ledger.faults.append(f"{id}: delivery {delivery} after {before}: an attempt was forgotten")
        ledger.redeliveries += before > 0
        ledger.deliveries[id] = delivery
        ledger.processed.add(id)


def digest(rest: Rest, topic: str) -> dict[tuple[int, int], str]:
    """Which id stands at which place: must never change."""
    return {(m["partition"], m["offset"]): m["id"] for m in rest.read_all(topic)}


