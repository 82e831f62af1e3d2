"""Subscriptions: messages in, callbacks, acks out."""

from __future__ import annotations

import heapq
import queue
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import grpc

from gem import errors
from gem.link import Link
from gem.message import Message
from gem.v1 import admin_pb2, message_pb2, subscriber_pb2

Callback = Callable[[Message], object]

_MODES = {None: message_pb2.MODE_UNSPECIFIED, "shared": message_pb2.MODE_SHARED, "key": message_pb2.MODE_KEY}
_GROUPLESS_CREDIT = 1000
#: Backoff of a message whose callback raised: this much, doubled with every delivery, up to the maximum.
_NACK_SECONDS = 0.5
_NACK_SECONDS_MAX = 60.0


class Settler:
    """Gathers what a subscription has to say about tokens; the stream's sender takes it from here."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._acks: list[str] = []
        self._nacks: dict[int, list[str]] = {}
        self._extends: dict[int, list[str]] = {}
        self._credit = 0
        self._ref = 0
        self._sent: set[int] = set()
        self.closed = False

    def ack(self, token: str) -> None:
        with self._lock:
            self._acks.append(token)
            self._lock.notify_all()

    def nack(self, token: str, delay: float) -> None:
        with self._lock:
            self._nacks.setdefault(max(0, round(delay * 1000)), []).append(token)
            self._lock.notify_all()

    def extend(self, tokens: list[str], by: float) -> None:
        with self._lock:
            self._extends.setdefault(max(1, round(by * 1000)), []).extend(tokens)
            self._lock.notify_all()

    def credit(self, n: int) -> None:
        with self._lock:
            self._credit += n
            self._lock.notify_all()

    def take(self, broken: Callable[[], bool]) -> list[subscriber_pb2.SubscribeRequest] | None:
        """Waits for something to say; None once the stream is at its end."""
        with self._lock:
            self._lock.wait_for(lambda: broken() or self._acks or self._nacks or self._extends or self._credit)
            if broken():
                return None
            out = []
            if self._acks:
                out.append(subscriber_pb2.SubscribeRequest(ack=subscriber_pb2.Ack(tokens=self._acks, ref=self._next())))
            for delay_ms, tokens in self._nacks.items():
                nack = subscriber_pb2.Nack(tokens=tokens, delay_ms=delay_ms, ref=self._next())
                out.append(subscriber_pb2.SubscribeRequest(nack=nack))
            for by_ms, tokens in self._extends.items():
                extend = subscriber_pb2.Extend(tokens=tokens, by_ms=by_ms, ref=self._next())
                out.append(subscriber_pb2.SubscribeRequest(extend=extend))
            if self._credit:
                out.append(subscriber_pb2.SubscribeRequest(credit=subscriber_pb2.Credit(messages=self._credit)))
            self._acks, self._nacks, self._extends, self._credit = [], {}, {}, 0
            return out

    def settled(self, ref: int) -> None:
        with self._lock:
            self._sent.discard(ref)
            self._lock.notify_all()

    def wait_settled(self, timeout: float) -> bool:
        """Waits until the mesh has answered everything said so far."""
        with self._lock:
            return self._lock.wait_for(
                lambda: self.closed or not (self._acks or self._nacks or self._extends or self._sent), timeout
            )

    def lost(self) -> None:
        """The stream is gone: what was sent may or may not have arrived; the mesh redelivers what did not."""
        with self._lock:
            self._sent.clear()
            self._credit = 0
            self._lock.notify_all()

    def wake(self) -> None:
        with self._lock:
            self._lock.notify_all()

    def _next(self) -> int:
        self._ref += 1
        self._sent.add(self._ref)
        return self._ref


class Subscription:
    """A running subscription. `stop()` ends it; as a context manager it stops at the end of the block."""

    def __init__(
        self,
        link: Link,
        topic: str,
        callback: Callback,
        group: str | None,
        mode: str | None,
        from_: str | None,
        concurrency: int,
        max_lease: float,
    ) -> None:
        if mode not in _MODES:
            raise errors.InvalidArgument(f"mode is 'shared' or 'key', not {mode!r}")
        if concurrency < 1:
            raise errors.InvalidArgument(f"concurrency is at least 1, not {concurrency}")
        self._link = link
        self._topic = topic
        self._callback = callback
        self._group = group
        self._mode = mode
        self._from = from_
        self._cursor = ""
        self._concurrency = concurrency if group else 1
        self._max_lease = max_lease
        self._consumer = f"py-{uuid.uuid4()}"
        self._settler = Settler()
        self._prefetch = max(16, 4 * concurrency) if group else _GROUPLESS_CREDIT
        # Bounded by the credit: the mesh never sends more than was asked for.
        self._inbox: queue.Queue[Message | None] = queue.Queue()
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._error: BaseException | None = None
        self._stream_now = 0  # names the stream in use: an older one's sender must take nothing any more
        self._call: Any = None
        self._leases = _Leases(self._settler, max_lease)
        self._threads = [threading.Thread(target=self._run, name="gem-subscription", daemon=True)]
        self._threads += [
            threading.Thread(target=self._work, name=f"gem-callback-{i}", daemon=True) for i in range(self._concurrency)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self, timeout: float = 10.0) -> None:
        """Ends it: callbacks that run finish and are acked, what was fetched but not begun goes back at once."""
        self._stopping.set()
        deadline = time.monotonic() + timeout
        for _ in range(self._concurrency):
            self._inbox.put(None)
        for thread in self._threads[1:]:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))
        if self._group:
            self._settler.wait_settled(max(0.0, deadline - time.monotonic()))
        self._end()
        if self._threads[0] is not threading.current_thread():
            self._threads[0].join(max(0.0, deadline - time.monotonic()))

    def wait(self) -> None:
        """Blocks until it ends; raises what ended it."""
        try:
            while not self._ended.wait(0.5):  # in steps, so that Ctrl-C is seen on every platform
                pass
        except BaseException:
            self.stop()
            raise
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    # --- the stream's thread ---

    def _run(self) -> None:
        failures = 0
        try:
            while not self._stopping.is_set():
                received, error = self._stream()
                if self._stopping.is_set():
                    return
                failures = 0 if received else failures + 1
                if error is not None and error.code not in errors.RETRYABLE:
                    self._error = error
                    return
                backoff = min(2.0, 0.05 * 2 ** min(failures, 6)) * random.uniform(0.5, 1.0)
                if failures % self._link.nodes:
                    continue  # another node is asked at once; a pause follows when all have been
                wait = error.retry_after if error is not None and error.retry_after else 0.0
                self._stopping.wait(max(wait, backoff))
        except BaseException as error:  # a fault of the client's own must end `wait`, not vanish with the thread
            self._error = error
        finally:
            self._end()

    def _stream(self) -> tuple[bool, errors.GemError | None]:
        channel = self._link.channel()
        stub: Any = channel.stream_stream(
            "/gem.v1.Subscriber/Subscribe",
            request_serializer=subscriber_pb2.SubscribeRequest.SerializeToString,
            response_deserializer=subscriber_pb2.SubscribeResponse.FromString,
        )
        received = False
        try:
            if self._group:
                self._leases.period(self._ack_timeout(channel))
            self._stream_now += 1
            self._call = stub(self._requests(self._stream_now))
            for response in self._call:
                received = True
                kind = response.WhichOneof("response")
                if kind == "batch":
                    for raw in response.batch.messages:
                        message = Message(raw, self._settler if self._group else None)
                        if self._group:
                            self._leases.add(raw.ack_token)
                        self._inbox.put(message)
                    if not response.batch.messages and response.batch.cursor and not self._cursor:
                        self._cursor = response.batch.cursor
                    elif response.batch.messages and response.batch.cursor:
                        self._inbox.put(_Cursor(response.batch.cursor))
                elif kind == "settled":
                    self._settler.settled(response.settled.ref)
            return received, None
        except grpc.RpcError as error:
            if not self._stopping.is_set():
                self._link.failed(channel)
            return received, errors.from_rpc(error, self._link.where)
        finally:
            self._stream_now += 1
            self._settler.lost()
            self._forget_inbox()

    def _requests(self, stream: int) -> Iterator[subscriber_pb2.SubscribeRequest]:
        yield subscriber_pb2.SubscribeRequest(
            start=subscriber_pb2.SubscribeStart(
                topic=self._topic,
                group=self._group or "",
                consumer=self._consumer,
                mode=_MODES[self._mode],
                **({"cursor": self._cursor} if self._cursor else {"from": self._from or ""}),
                credit=self._prefetch,
            )
        )
        while True:
            said = self._settler.take(lambda: self._stream_now != stream)
            if said is None:
                return
            yield from said

    def _ack_timeout(self, channel: grpc.Channel) -> float:
        get: Any = channel.unary_unary(
            "/gem.v1.Admin/GetTopic",
            request_serializer=admin_pb2.GetTopicRequest.SerializeToString,
            response_deserializer=admin_pb2.GetTopicResponse.FromString,
        )
        try:
            topic = get(admin_pb2.GetTopicRequest(name=self._topic), timeout=10).topic
            return float(topic.config.ack_timeout_ms) / 1000 or 30.0
        except grpc.RpcError as error:
            if errors.from_rpc(error, self._link.where).code == "not_found":
                return 30.0  # made by the subscription, with the defaults
            raise

    def _forget_inbox(self) -> None:
        """What was fetched on a lost stream and not begun comes again: with a group from its leases' end, without
        one from the cursor."""
        kept: list[Message | None] = []
        try:
            while True:
                item = self._inbox.get_nowait()
                if item is None:
                    kept.append(item)
                elif self._group:
                    self._leases.drop(item._raw.ack_token)
        except queue.Empty:
            pass
        for item in kept:
            self._inbox.put(item)

    def _end(self) -> None:
        self._stopping.set()
        self._stream_now += 1
        self._settler.closed = True
        self._settler.wake()
        self._leases.stop()
        if self._call is not None:
            self._call.cancel()
        for _ in range(self._concurrency):
            self._inbox.put(None)
        self._ended.set()

    # --- the callbacks' threads ---

    def _work(self) -> None:
        while True:
            message = self._inbox.get()
            if message is None or self._stopping.is_set():
                return
            if isinstance(message, _Cursor):
                self._cursor = message.cursor
            elif self._group:
                self._handle(message)
                self._settler.credit(1)
            else:
                try:
                    self._callback(message)
                except BaseException as error:
                    self._error = error
                    self._end()
                    return
                self._settler.credit(1)

    def _handle(self, message: Message) -> None:
        token = message._raw.ack_token
        self._leases.begin(token)
        try:
            self._callback(message)
        except BaseException:
            if not message.settled:
                backoff = _NACK_SECONDS * 2 ** min(message.delivery - 1, 10)
                message.nack(min(backoff, _NACK_SECONDS_MAX))
        else:
            if not message.settled:
                message.ack()
        finally:
            self._leases.drop(token)


class _Cursor(Message):
    """Marks, in the inbox, the place after the messages before it."""

    __slots__ = ("cursor",)

    def __init__(self, cursor: str) -> None:
        super().__init__(message_pb2.StoredMessage())
        self.cursor = cursor


class _Leases:
    """Extends what waits or runs, from one thread, up to `max_lease` seconds after its callback began."""

    def __init__(self, settler: Settler, max_lease: float) -> None:
        self._settler = settler
        self._max_lease = max_lease
        self._lock = threading.Condition()
        self._held: dict[str, float] = {}  # token → when to stop extending
        self._due: list[tuple[float, str]] = []
        self._timeout = 30.0
        self._stopped = False
        self._thread: threading.Thread | None = None

    def period(self, ack_timeout: float) -> None:
        with self._lock:
            self._timeout = ack_timeout

    def add(self, token: str) -> None:
        now = time.monotonic()
        with self._lock:
            self._held[token] = now + self._max_lease
            heapq.heappush(self._due, (now + self._timeout / 3, token))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="gem-leases", daemon=True)
                self._thread.start()
            if len(self._due) == 1:
                self._lock.notify_all()

    def begin(self, token: str) -> None:
        with self._lock:
            if token in self._held:
                self._held[token] = time.monotonic() + self._max_lease

    def drop(self, token: str) -> None:
        with self._lock:
            self._held.pop(token, None)

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            self._lock.notify_all()

    def _run(self) -> None:
        with self._lock:
            while not self._stopped:
                now = time.monotonic()
                extend: list[str] = []
                while self._due and self._due[0][0] <= now:
                    _, token = heapq.heappop(self._due)
                    until = self._held.get(token)
                    if until is None:
                        continue
                    if until <= now:
                        del self._held[token]
                        continue
                    extend.append(token)
                    heapq.heappush(self._due, (now + self._timeout / 3, token))
                if extend:
                    self._settler.extend(extend, self._timeout)
                self._lock.wait(self._due[0][0] - now if self._due else None)
