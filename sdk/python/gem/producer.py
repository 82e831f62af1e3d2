"""Publishing in the background: batches, numbers, retries, and receipts."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

import grpc

from gem import errors
from gem.link import Link
from gem.message import Placed
from gem.v1 import message_pb2, publisher_pb2

#: Most messages and bytes in one request.
BATCH_MESSAGES = 1000
BATCH_BYTES = 1 << 20
#: Most bytes waiting or under way; above it `publish` waits.
WINDOW_BYTES = 32 << 20
#: Most requests under way on the stream.
WINDOW_REQUESTS = 16


class Receipt:
    """The promise of a place. May be dropped: fire and forget."""

    __slots__ = ("_future", "_read")

    def __init__(self) -> None:
        self._future: Future[Placed] = Future()
        self._read = False

    def result(self, timeout: float | None = None) -> Placed:
        """Waits until the message is durable; raises what refused it, `gem.Deadline` after `timeout` seconds."""
        self._read = True
        try:
            return self._future.result(timeout)
        except FutureTimeout:
            raise errors.Deadline(f"no receipt within {timeout} s: the message may still be stored") from None

    def done(self) -> bool:
        """Whether the outcome is known."""
        return self._future.done()


class _Request:
    """A batch under way: consecutive messages of one topic, numbered."""

    __slots__ = ("topic", "messages", "receipts", "bytes", "number", "deadline", "sent")

    def __init__(self, topic: str, number: int, deadline: float) -> None:
        self.topic = topic
        self.messages: list[message_pb2.Message] = []
        self.receipts: list[Receipt] = []
        self.bytes = 0
        self.number = number
        self.deadline = deadline
        self.sent = False


class Producer:
    """Sends what is published, in order, over one stream, from one thread.

    Every message has a number: after a lost connection the unsettled ones are sent again under the
    same numbers, and stored once. Memory is bounded by `WINDOW_BYTES`.
    """

    def __init__(
        self, link: Link, timeout: float, on_error: Callable[[errors.GemError], None] | None
    ) -> None:
        self._link = link
        self._timeout = timeout
        self._on_error = on_error
        self._lock = threading.Condition()
        self._open: _Request | None = None  # gathers messages; not yet in _unsettled
        self._ready: deque[_Request] = deque()  # waits for the stream
        self._unsettled: deque[_Request] = deque()  # on the stream, oldest first
        self._bytes = 0
        self._next_number = 1
        self._producer_id = 0
        self._failures: list[errors.GemError] = []
        self._closed = False
        self._moved = False  # whether the last stream's end turned to another node
        self._stream_now = 0  # names the stream in use: an older one's sender must take nothing any more
        self._thread: threading.Thread | None = None

    def publish(self, topic: str, message: message_pb2.Message) -> Receipt:
        """Queues a message; waits only where `WINDOW_BYTES` are on their way already."""
        receipt = Receipt()
        size = message.ByteSize()
        deadline = time.monotonic() + self._timeout
        with self._lock:
            while self._bytes and self._bytes + size > WINDOW_BYTES and not self._closed:
                if not self._lock.wait(max(0.0, deadline - time.monotonic())):
                    raise errors.Throttled(f"{self._bytes} bytes are on their way and none was settled for {self._timeout} s")
            if self._closed:
                raise errors.Unavailable("the client is closed")
            request = self._open
            if request is None or request.topic != topic or len(request.messages) >= BATCH_MESSAGES or request.bytes + size > BATCH_BYTES:
                if request is not None:
                    self._ready.append(request)
                request = self._open = _Request(topic, self._next_number, deadline)
            request.messages.append(message)
            request.receipts.append(receipt)
            request.bytes += size
            self._next_number += 1
            self._bytes += size
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="gem-producer", daemon=True)
                self._thread.start()
            self._lock.notify_all()
        return receipt

    def flush(self, timeout: float | None) -> None:
        """Waits until all that was published is settled, then raises the first failure nobody saw yet."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            while self._open or self._ready or self._unsettled:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise errors.Deadline(f"not all messages were settled within {timeout} s; they are still being sent")
                self._lock.wait(left)
            failures, self._failures = self._failures, []
        if failures:
            raise failures[0]

    def close(self, timeout: float) -> None:
        """Flushes, then ends the thread."""
        try:
            self.flush(timeout)
        finally:
            with self._lock:
                self._closed = True
                self._lock.notify_all()

    # --- the thread ---

    def _run(self) -> None:
        failures = 0
        while True:
            with self._lock:
                while not (self._open or self._ready or self._unsettled or self._closed):
                    self._lock.wait()
                if self._closed and not (self._open or self._ready or self._unsettled):
                    return
                self._ready.extendleft(reversed(self._unsettled))
                self._unsettled.clear()
                for request in self._ready:
                    request.sent = False
            settled_before = self._settled_mark()
            wait = self._stream()
            failures = 0 if self._settled_mark() > settled_before else failures + 1
            self._drop_overdue()
            with self._lock:
                if self._closed and not (self._open or self._ready or self._unsettled):
                    return
                backoff = min(2.0, 0.05 * 2 ** min(failures, 6)) * random.uniform(0.5, 1.0)
                # Another node is asked at once; a pause follows when all have been.
                if failures and not (self._moved and failures % self._link.nodes):
                    self._lock.wait_for(lambda: self._closed, max(wait, backoff))

    def _settled_mark(self) -> int:
        with self._lock:
            for queue in (self._unsettled, self._ready):
                if queue:
                    return queue[0].number
            return self._open.number if self._open else self._next_number

    def _stream(self) -> float:
        """Runs one stream until it ends; answers how many seconds the mesh wants to be left alone."""
        channel = self._link.channel()
        self._moved = False
        call: Any = channel.stream_stream(
            "/gem.v1.Publisher/PublishStream",
            request_serializer=publisher_pb2.PublishStreamRequest.SerializeToString,
            response_deserializer=publisher_pb2.PublishStreamResponse.FromString,
        )
        with self._lock:
            self._stream_now += 1
            stream = self._stream_now
        responses: Any = call(self._requests(stream))
        try:
            for response in responses:
                wait = self._settle(response)
                if wait is not None:
                    return wait
        except grpc.RpcError as error:
            self._link.failed(channel)
            self._moved = True
            failure = errors.from_rpc(error, self._link.where)
            if failure.code not in errors.RETRYABLE:
                self._fail_first(failure)
            return failure.retry_after or 0.0
        finally:
            with self._lock:
                self._stream_now += 1
                self._lock.notify_all()
            responses.cancel()
        return 0.0

    def _requests(self, stream: int) -> Iterator[publisher_pb2.PublishStreamRequest]:
        if self._producer_id == 0:
            # Learns the producer's id before anything is sent that may have to be repeated.
            yield publisher_pb2.PublishStreamRequest()
            with self._lock:
                self._lock.wait_for(lambda: self._producer_id != 0 or self._stream_now != stream)
        while True:
            with self._lock:
                while self._stream_now == stream and (
                    len(self._unsettled) >= WINDOW_REQUESTS or not (self._ready or self._open)
                ):
                    if self._closed and not (self._open or self._ready or self._unsettled):
                        return
                    self._lock.wait()
                if self._stream_now != stream:
                    return
                if self._ready:
                    request = self._ready.popleft()
                else:
                    assert self._open is not None
                    request, self._open = self._open, None
                self._unsettled.append(request)
                settled = self._unsettled[0].number
                producer_id = self._producer_id
            yield publisher_pb2.PublishStreamRequest(
                topic=request.topic,
                messages=request.messages,
                producer_id=producer_id,
                number=request.number,
                settled=settled,
                ref=request.number,
            )

    def _settle(self, response: publisher_pb2.PublishStreamResponse) -> float | None:
        """Settles the oldest request; answers a wait where it must be sent again on a new stream."""
        with self._lock:
            if response.producer_id:
                self._producer_id = response.producer_id
                self._lock.notify_all()
            if response.ref == 0 and response.HasField("error"):
                return response.error.retry_after_ms / 1000
            if response.ref == 0 or not self._unsettled:
                return None
            request = self._unsettled[0]
        if response.HasField("error"):
            refusal = response.error
            if refusal.code in errors.RETRYABLE:
                return refusal.retry_after_ms / 1000 if refusal.HasField("retry_after_ms") else 0.0
            self._finish(request, [_error(refusal)] * len(request.receipts))
            return None
        outcomes: list[Placed | errors.GemError]
        if response.HasField("range"):
            place = response.range
            first_id = int.from_bytes(place.id_base, "big")
            outcomes = [
                Placed(message.id or str(uuid.UUID(int=first_id + i)), place.partition, place.first_offset + i, False)
                for i, message in enumerate(request.messages)
            ]
        else:
            outcomes = []
            for result in response.results:
                if result.HasField("error"):
                    if result.error.code in errors.RETRYABLE:
                        wait = result.error.retry_after_ms
                        return wait / 1000 if wait else 0.0
                    outcomes.append(_error(result.error))
                else:
                    at = result.receipt
                    outcomes.append(Placed(at.id, at.partition, at.offset, at.duplicate))
        self._finish(request, outcomes)
        return None

    def _finish(self, request: _Request, outcomes: list[Any]) -> None:
        with self._lock:
            self._unsettled.popleft()
            self._bytes -= request.bytes
            self._lock.notify_all()
        self._resolve(request, outcomes)

    def _resolve(self, request: _Request, outcomes: list[Any]) -> None:
        failures: dict[int, errors.GemError] = {}
        for receipt, outcome in zip(request.receipts, outcomes, strict=True):
            if isinstance(outcome, errors.GemError):
                failures[id(outcome)] = outcome
                receipt._future.set_exception(outcome)
            else:
                receipt._future.set_result(outcome)
        if failures:
            with self._lock:
                self._failures.extend(failures.values())
                del self._failures[100:]
            if self._on_error is not None:
                for failure in failures.values():
                    self._on_error(failure)

    def _fail_first(self, failure: errors.GemError) -> None:
        """A call refused for good fails its oldest request: no repeat would fare better."""
        with self._lock:
            queue = self._unsettled or self._ready
            if not queue:
                return
            request = queue.popleft()
            self._bytes -= request.bytes
            self._lock.notify_all()
        self._resolve(request, [failure] * len(request.receipts))

    def _drop_overdue(self) -> None:
        now = time.monotonic()
        overdue = []
        with self._lock:
            for queue in (self._unsettled, self._ready):
                while queue and queue[0].deadline < now:
                    request = queue.popleft()
                    self._bytes -= request.bytes
                    overdue.append(request)
            if overdue:
                self._lock.notify_all()
        for request in overdue:
            failure = errors.Deadline(
                f"not settled within {self._timeout} s by {self._link.where}: it may be stored; publish again with the same id"
            )
            self._resolve(request, [failure] * len(request.receipts))


def _error(refusal: message_pb2.Refusal) -> errors.GemError:
    wait = refusal.retry_after_ms if refusal.HasField("retry_after_ms") else None
    return errors.from_code(refusal.code, refusal.detail, wait)
