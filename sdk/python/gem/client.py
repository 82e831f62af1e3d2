"""The client: what `gem.publish` and `gem.subscribe` use, without globals."""

from __future__ import annotations

import atexit
import random
import time
import weakref
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Literal, overload

import grpc

from gem import errors
from gem.link import Link
from gem.message import Payload, encode
from gem.producer import Producer, Receipt
from gem.subscription import Callback, Subscription
from gem.v1 import admin_pb2

_FLUSH_AT_EXIT_SECONDS = 30.0


class Client:
    """Talks to a mesh through any of its nodes.

    `url` is one URL, a comma-separated list or a list: the next is taken where one fails, and after those the
    nodes that the mesh told of meanwhile. Without it, `$GEM_URL`, else `http://127.0.0.1:7400`. `timeout` is how long a publish is retried, in seconds.
    `on_error` is called with every failed publish, from the client's own thread.
    """

    def __init__(
        self,
        url: str | list[str] | None = None,
        *,
        timeout: float = 120.0,
        on_error: Callable[[errors.GemError], None] | None = None,
    ) -> None:
        self._link = Link(url)
        self._producer = Producer(self._link, timeout, on_error)
        self._closed = False
        _open_clients.add(self)

    def publish(
        self,
        topic: str,
        message: Payload,
        *,
        key: str | bytes | None = None,
        headers: Mapping[str, str | bytes] | None = None,
        id: str | None = None,
    ) -> Receipt:
        """Publishes in the background and returns at once; the receipt's `result()` waits for durability."""
        return self._producer.publish(topic, encode(message, key, headers, id))

    def flush(self, timeout: float | None = None) -> None:
        """Waits until everything published is durable or refused; raises the first refusal not raised yet."""
        self._producer.flush(timeout)

    @overload
    def subscribe(
        self,
        topic: str,
        callback: Callback,
        *,
        group: str | None = None,
        mode: str | None = None,
        from_: str | None = None,
        concurrency: int = 1,
        background: Literal[False] = False,
        max_lease: float = 600,
    ) -> None: ...

    @overload
    def subscribe(
        self,
        topic: str,
        callback: Callback,
        *,
        group: str | None = None,
        mode: str | None = None,
        from_: str | None = None,
        concurrency: int = 1,
        background: Literal[True],
        max_lease: float = 600,
    ) -> Subscription: ...

    def subscribe(
        self,
        topic: str,
        callback: Callback,
        *,
        group: str | None = None,
        mode: str | None = None,
        from_: str | None = None,
        concurrency: int = 1,
        background: bool = False,
        max_lease: float = 600,
    ) -> Subscription | None:
        """Calls `callback` with every message.

        Without a group: everything from now on (or from `from_`), one at a time; an exception ends the
        subscription and is raised. With a group: a return acks, an exception nacks with backoff, and leases are
        extended while a callback runs, up to `max_lease` seconds. Blocks, or with `background=True` returns a
        `Subscription`.
        """
        subscription = Subscription(self._link, topic, callback, group, mode, from_, concurrency, max_lease)
        if background:
            return subscription
        subscription.wait()
        return None

    def create_topic(self, name: str, **config: Any) -> None:
        """Creates a topic; `config` takes the keys of the contract (`retention_ms`, `max_deliveries`, …)."""
        ordering = config.pop("ordering", None)
        try:
            message = admin_pb2.TopicConfig(**config)
        except ValueError as error:
            raise errors.InvalidArgument(str(error)) from None
        if ordering is not None:
            orderings = {"key": admin_pb2.ORDERING_KEY, "total": admin_pb2.ORDERING_TOTAL}
            if ordering not in orderings:
                raise errors.InvalidArgument(f"ordering is 'key' or 'total', not {ordering!r}")
            message.ordering = orderings[ordering]
        self._admin("CreateTopic", admin_pb2.CreateTopicRequest(name=name, config=message), admin_pb2.CreateTopicResponse)

    def delete_topic(self, name: str) -> None:
        """Deletes a topic with its groups and messages."""
        self._admin("DeleteTopic", admin_pb2.DeleteTopicRequest(name=name), admin_pb2.DeleteTopicResponse)

    def close(self, timeout: float = _FLUSH_AT_EXIT_SECONDS) -> None:
        """Flushes and closes; raises what a flush raises."""
        if self._closed:
            return
        self._closed = True
        _open_clients.discard(self)
        try:
            self._producer.close(timeout)
        finally:
            self._link.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _admin(self, method: str, request: Any, response: Any, timeout: float = 30.0) -> Any:
        deadline = time.monotonic() + timeout
        attempt = 0
        while True:
            channel = self._link.channel()
            call: Any = channel.unary_unary(
                f"/gem.v1.Admin/{method}",
                request_serializer=type(request).SerializeToString,
                response_deserializer=response.FromString,
            )
            try:
                return call(request, timeout=max(0.1, deadline - time.monotonic()))
            except grpc.RpcError as failure:
                error = errors.from_rpc(failure, self._link.where)
                self._link.failed(channel)
                wait = max(error.retry_after or 0.0, min(2.0, 0.05 * 2**attempt) * random.uniform(0.5, 1.0))
                attempt += 1
                if attempt % self._link.nodes:
                    wait = 0.0  # another node is asked at once; a pause follows when all have been
                if error.code not in ("unavailable", "throttled") or time.monotonic() + wait > deadline:
                    raise error from None
                time.sleep(wait)  # backoff between two attempts



_open_clients: weakref.WeakSet[Client] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    failures: list[BaseException] = []
    for client in list(_open_clients):
        try:
            client.close()
        except errors.GemError as error:
            failures.append(error)
    if failures:
        # Raising here prints the failure on standard error: a lost publish is never silent.
        raise failures[0]
