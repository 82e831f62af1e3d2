"""A workload over all nodes of a mesh, whose every promise can be checked from the ids afterwards.

Producers, each with ids and keys of its own, send to one node as long as it answers and retry the same
batch through the next until it is acknowledged. Two groups, one in mode `key` and one `shared`, have members
on all nodes. Per key, messages are numbered without a gap.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any

from harness.mesh_reading import PASSING, Place, Reader
from harness.rest import Refused, Rest

#: Messages that a group may be behind its publishers.
BACKLOG = 5_000
#: Those that say: not stored, and never will be.
REFUSED = ("throttled", "unavailable")
#: A client takes a node that says nothing for so long as gone, in seconds.
PATIENCE = 4.0
#: What must not happen to a message.
BROKEN = ("lost", "twice", "moved", "disordered", "ghosts", "differing", "undelivered")
#: So long that a node says itself that it gives up.
PROBE_PATIENCE = 40.0

@dataclass
class Progress:
    """What one group's members saw of one topic."""

    seen: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    # id → the delivery whose ack was confirmed
    acked: dict[str, int] = field(default_factory=dict)
    # ids whose ack was sent, and whose answer was lost with its node
    unsure: set[str] = field(default_factory=set)
    # key → the next number that is due for the first time
    due: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    again: int = 0


@dataclass
class Ack:
    """When a publish was answered, and how long it had taken since it was first sent, in seconds."""

    at: float
    took: float
    topic: str


class Line:
    """A client's connection to one of the nodes in `workload.urls`: to the next, where one fails or is taken out."""

    def __init__(self, workload: MeshWorkload, number: int) -> None:
        self._workload = workload
        self._turn = number
        self._url = ""
        self._rest: Rest | None = None

    def rest(self) -> Rest:
        urls = self._workload.urls
        if self._rest is None or self._url not in urls:
            self._url = urls[self._turn % len(urls)]
            self._rest = Rest(self._url, PATIENCE)
        return self._rest

    def turn(self) -> None:
        self._turn += 1
        self._rest = None


class MeshWorkload:
    """Publishers and the members of two groups, each a thread of its own, over REST."""

    def __init__(
        self,
        urls: list[str],
        topics: list[str],
        seed: int,
        producers: int = 3,
        members: int = 3,
        pause: float = 0.02,
        batch: int = 10,
        pad: int = 400,
        own_topics: bool = False,
    ) -> None:
        """With `own_topics` producer n publishes to topic n alone; without `members` there are no groups."""
        self.urls = list(urls)
        self.topics = topics
        self.pause = pause
        self.batch = batch
        self.pad = pad
        self.seed = seed
        self.own_topics = own_topics
        self.groups = {"bykey": "key", "anyone": "shared"} if members else {}
        self.lock = threading.Lock()
        self.faults: list[str] = []
        self.stored: dict[str, dict[str, Place]] = {topic: {} for topic in topics}
        # ids that were refused for good, and given up
        self.refused: dict[str, set[str]] = {topic: set() for topic in topics}
        self.acks: list[Ack] = []
        self._readers: dict[tuple[str, str], Reader] = {}
        self.retries: dict[str, int] = defaultdict(int)
        self.progress = {(topic, group): Progress() for topic in topics for group in self.groups}
        self._stop_publishing = threading.Event()
        self._stop = threading.Event()
        self._producers = [
            threading.Thread(target=self._guard, args=(self._publish, n), daemon=True) for n in range(producers)
        ]
        if not own_topics:
            self._producers.append(threading.Thread(target=self._guard, args=(self._probe, producers), daemon=True))
        self._members = [
            threading.Thread(target=self._guard, args=(self._consume, n, group), daemon=True)
            for group in self.groups
            for n in range(members)
        ]

    def start(self) -> None:
        for topic in self.topics:
            self._create(topic)
        for thread in self._producers + self._members:
            thread.start()

    def published(self) -> int:
        with self.lock:
            return sum(len(stored) for stored in self.stored.values())

    def wait_served(self, since: float, timeout: float = 60.0) -> float:
        """Waits until a publish that was first sent after `since` is stored in every topic; answers when."""
        deadline = time.monotonic() + timeout
        while True:
            served: dict[str, float] = {}
            with self.lock:
                for ack in reversed(self.acks):
                    if ack.at < since:
                        break
                    if ack.at - ack.took >= since:
                        served[ack.topic] = ack.at
            if len(served) == len(self.topics):
                return max(served.values())
            dumb = [topic for topic in self.topics if topic not in served]
            assert time.monotonic() < deadline, f"nothing is stored in {dumb} for {timeout} s ({dict(self.retries)})"
            time.sleep(0.02)

    def gaps(self, since: float, until: float) -> dict[str, list[float]]:
        """The times between two acks of each topic, in seconds; the last is cut off at `until`."""
        times: dict[str, list[float]] = {topic: [since] for topic in self.topics}
        with self.lock:
            for ack in self.acks:
                if since <= ack.at <= until:
                    times[ack.topic].append(ack.at)
        return {topic: [b - a for a, b in itertools.pairwise([*sorted(at), until])] for topic, at in times.items()}

    def stop_publishing(self, timeout: float = 90.0) -> None:
        self._stop_publishing.set()
        for thread in self._producers:
            thread.join(timeout)
            assert not thread.is_alive(), f"a publisher is stuck: no node stores its batch ({dict(self.retries)})"

    def finish(self, timeout: float = 120.0) -> None:
        """Stops publishing, waits until both groups have worked off everything, stops."""
        self.stop_publishing()
        deadline = time.monotonic() + timeout
        while (self.left() or self.lag()) and not self.faults and time.monotonic() < deadline:
            time.sleep(0.1)
        self._stop.set()
        for thread in self._members:
            thread.join(60)
        assert not self.faults, self.faults[:5]
        left, lag = self.left(), self.lag()
        assert not left and not lag, f"not worked off within {timeout} s: {left}; lag {lag}"

    def stop(self) -> None:
        """Ends all threads, however it stands."""
        self._stop_publishing.set()
        self._stop.set()

    def left(self) -> dict[tuple[str, str], int]:
        """How many messages each group has not acked as far as its members know, where there are any."""
        with self.lock:
            left = {
                (topic, group): len(self.stored[topic].keys() - progress.acked.keys() - progress.unsure)
                for (topic, group), progress in self.progress.items()
            }
        return {which: count for which, count in left.items() if count}

    def lag(self) -> dict[tuple[str, str], int]:
        """How many messages each group lacks as its shard says, where there are any; -1: it does not say."""
        lag = {}
        for topic, group in self.progress:
            try:
                answer = Rest(self.urls[0], PATIENCE).call("GET", f"/v1/topics/{topic}/groups/{group}")
            except OSError:
                lag[topic, group] = -1
                continue
            count = answer.json()["lag"] if answer.status == 200 else -1
            if count:
                lag[topic, group] = count
        return lag

    def _guard(self, run: Any, *args: Any) -> None:
        try:
            run(*args)
        except BaseException as error:  # a thread that ends early would pass for one with nothing to say
            self.fault(f"{run.__name__}{args}: {error!r}")

    def fault(self, text: str) -> None:
        with self.lock:
            self.faults.append(text)

    def _create(self, topic: str, timeout: float = 30.0) -> None:
        deadline = time.monotonic() + timeout
        for turn in itertools.count():
            try:
                rest = Rest(self.urls[turn % len(self.urls)], PATIENCE)
                answer = rest.call("PUT", f"/v1/topics/{topic}", {"ack_timeout_ms": 2000, "max_deliveries": 10_000})
                if answer.status in (200, 201):
                    return
                why = f"{answer.status} {answer.body[:300]!r}"
            except OSError as error:
                why = repr(error)
            assert time.monotonic() < deadline, f"topic {topic} could not be made for {timeout} s: {why}"
            time.sleep(0.05)

    # --- publishing ---

    def _publish(self, number: int) -> None:
        rng = random.Random(self.seed * 100 + number)
        topics = [self.topics[number % len(self.topics)]] if self.own_topics else self.topics
        keys = [f"k{number}-{i}" for i in range(20)]
        numbers: dict[tuple[str, str], int] = defaultdict(int)
        ids = (f"{number}-{sent}" for sent in itertools.count())
        line = Line(self, number)
        while not self._stop_publishing.is_set():
            topic = rng.choice(topics)
            if self._behind(topic) > BACKLOG:
                time.sleep(0.02)
                continue
            batch = []
            for _ in range(rng.randint(1, max(1, 2 * self.batch - 1))):
                key = rng.choice(keys)
                payload = {"n": numbers[topic, key], "pad": "x" * rng.randint(0, 2 * self.pad)}
                batch.append({"id": next(ids), "key": key, "payload": payload})
                numbers[topic, key] += 1
            began = time.monotonic()
            is_open = False  # whether an attempt may have been stored unheard
            while True:
                results, why = self._try(line.rest(), topic, batch)
                if results is not None:
                    break
                if self.faults:
                    return
                is_open = is_open or why not in REFUSED
                if not is_open and rng.random() < 0.5:
                    # Refused means: not stored, and never will be. So others may take their place.
                    with self.lock:
                        self.refused[topic].update(str(message["id"]) for message in batch)
                    for message in batch:
                        message["id"] = next(ids)
                line.turn()
                time.sleep(0.02)
            now = time.monotonic()
            with self.lock:
                self.acks.append(Ack(now, now - began, topic))
                for message, result in zip(batch, results, strict=True):
                    self.stored[topic][str(message["id"])] = (result["partition"], result["offset"])
            time.sleep(self.pause)

    def _probe(self, number: int) -> None:
        """Publishes single messages once and never again: what is refused must not show up later."""
        rng = random.Random(self.seed * 100 + number)
        for sent in itertools.count():
            if self._stop_publishing.is_set() or self.faults:
                return
            topic, id = rng.choice(self.topics), f"once-{sent}"
            rest = Rest(rng.choice(self.urls), PROBE_PATIENCE)
            results, why = self._try(rest, topic, [{"id": id, "key": id, "payload": {"n": 0}}])
            with self.lock:
                if results is not None:
                    self.stored[topic][id] = (results[0]["partition"], results[0]["offset"])
                elif why in REFUSED:
                    self.refused[topic].add(id)
            time.sleep(0.05)

    def _behind(self, topic: str) -> int:
        with self.lock:
            acked = [len(self.progress[topic, group].acked) for group in self.groups]
            return len(self.stored[topic]) - min(acked) if acked else 0

    def _try(self, rest: Rest, topic: str, batch: list[dict[str, Any]]) -> tuple[list[dict[str, Any]] | None, str]:
        """The receipts, or why there are none."""
        try:
            results = rest.publish(topic, batch)
        except Refused as refused:
            return None, self._passing(topic, {refused.code}, str(refused))
        except Exception as error:
            self.retries[type(error).__name__] += 1
            return None, "unheard"
        codes = {result["error"]["code"] for result in results if "offset" not in result}
        if not codes:
            return results, ""
        why = self._passing(topic, codes, str(results[:3]))
        return None, why if all("offset" not in result for result in results) else "stored in part"

    def _passing(self, topic: str, codes: set[str], text: str) -> str:
        """Counts refusals; one that asking again does not settle is a fault."""
        for code in codes:
            self.retries[code] += 1
            if code not in PASSING:
                self.fault(f"publish to {topic}: {text}")
        return codes.pop() if len(codes) == 1 else "several"

    # --- delivery ---

    def _consume(self, number: int, group: str) -> None:
        rng = random.Random(self.seed * 100 + 50 + number)
        line = Line(self, number)
        while not self._stop.is_set():
            topic = rng.choice(self.topics)
            rest = line.rest()
            try:
                messages = rest.pull(topic, group, f"c{number}", max=100, wait_ms=100, mode=self.groups[group])
                ack, nack = [], []
                for message in messages:
                    self._note(topic, group, message)
                    chance = rng.random()
                    if chance < 0.97:
                        ack.append(message)
                    elif chance < 0.995:
                        nack.append(message)  # the rest is let lie until its lease ends
                if ack:
                    try:
                        statuses = rest.settle("ack", topic, group, [m["ack_token"] for m in ack])
                    except Exception:
                        with self.lock:
                            self.progress[topic, group].unsure.update(m["id"] for m in ack)
                        raise
                    with self.lock:
                        acked = self.progress[topic, group].acked
                        for message, status in zip(ack, statuses, strict=True):
                            if status == "acked":
                                acked[message["id"]] = message["delivery"]
                if nack:
                    rest.settle("nack", topic, group, [m["ack_token"] for m in nack], delay_ms=rng.randint(0, 300))
            except Refused as refused:
                if refused.code not in PASSING:
                    self.fault(f"group {group} of {topic}: {refused}")
                    return
                time.sleep(0.05)
            except (OSError, ValueError, HTTPException):
                line.turn()
                time.sleep(0.05)

    def _note(self, topic: str, group: str, message: dict[str, Any]) -> None:
        id, delivery, key, number = message["id"], message["delivery"], message["key"], message["payload"]["n"]
        with self.lock:
            progress = self.progress[topic, group]
            # A gateway that was paused may hand out late what it had been given before.
            if delivery > progress.acked.get(id, delivery):
                self.faults.append(f"{group} of {topic}: {id} came back, delivery {delivery}, after its ack was confirmed")
            if delivery in progress.seen[id]:
                self.faults.append(f"{group} of {topic}: {id}: delivery {delivery} twice: an attempt was forgotten")
            progress.again += bool(progress.seen[id])
            if self.groups[group] == "key" and not progress.seen[id]:
                if number != progress.due[key]:
                    self.faults.append(f"{group} of {topic}: key {key}: {number} where {progress.due[key]} was due")
                progress.due[key] = number + 1
            progress.seen[id].add(delivery)

    # --- what was promised ---

    def check(self, urls: list[str] | None = None, in_full: bool = True) -> dict[str, int]:
        """Holds what was acknowledged against what each node reads; answers the counts, summed over nodes.

        With `in_full` all is read again from the start, else on from where the last check ended.
        """
        counts: dict[str, int] = defaultdict(int)
        details: list[str] = []
        for topic in self.topics:
            with self.lock:
                stored, refused = dict(self.stored[topic]), set(self.refused[topic])
            counts["published"] += len(stored)
            counts["refused"] += len(refused)
            digests: dict[str, str] = {}
            for url in urls or self.urls:
                reader = self._readers.get((url, topic))
                if reader is None or in_full:
                    reader = self._readers[url, topic] = Reader(url, topic)
                reader.read_on()
                digests[url] = reader.digest()
                for what, found in reader.hold(stored, refused).items():
                    counts[what] += len(found)
                    if found:
                        details.append(f"{what} in {topic} through {url}: {found[:5]}")
            # While others publish, each node is read to another end.
            if self._stop_publishing.is_set() and len(set(digests.values())) > 1:
                counts["differing"] += 1
                details.append(f"{topic} differs from node to node: {digests}")
        for (topic, group), progress in self.progress.items():
            if self._stop.is_set():
                counts["undelivered"] += len(self.stored[topic].keys() - progress.seen.keys())
            counts["again"] += progress.again
        bad = {what: counts.get(what, 0) for what in BROKEN}
        assert not any(bad.values()), f"{dict(counts)}: {details[:8]}"
        return {**bad, **counts}
