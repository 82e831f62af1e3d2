"""GEM, the Global Event Mesh.

    import gem

    gem.publish(topic="orders", message={"order_id": 123, "status": "shipped"})
    gem.subscribe(topic="orders", callback=print)
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Literal, overload

try:
    from gem.client import Client
    from gem.errors import (
        Conflict,
        Deadline,
        GemError,
        Internal,
        InvalidArgument,
        NotFound,
        PermissionDenied,
        Throttled,
        TooLarge,
        Unauthenticated,
        Unavailable,
        UnsupportedMediaType,
    )
    from gem.message import Message, Payload, Placed
    from gem.producer import Receipt
    from gem.subscription import Callback, Subscription
except ImportError as error:
    if error.name is not None and error.name.split(".")[0] == "gem":
        raise ImportError(
            f"{error}: the folder {__path__} holds another package named 'gem' over GEM's own; "
            "uninstall it, then run: pip install --force-reinstall gem-mesh"
        ) from error
    raise

__all__ = [
    "Client",
    "Conflict",
    "Deadline",
    "GemError",
    "Internal",
    "InvalidArgument",
    "Message",
    "NotFound",
    "PermissionDenied",
    "Placed",
    "Receipt",
    "Subscription",
    "Throttled",
    "TooLarge",
    "Unauthenticated",
    "Unavailable",
    "UnsupportedMediaType",
    "connect",
    "flush",
    "publish",
    "subscribe",
]

_lock = threading.Lock()
_client: Client | None = None


def connect(
    url: str | list[str] | None = None, *, on_error: Callable[[GemError], None] | None = None
) -> Client:
    """Chooses the nodes that the functions below talk to. Optional: see `Client` for the default."""
    global _client
    fresh = Client(url, on_error=on_error)
    with _lock:
        old, _client = _client, fresh
    if old is not None:
        old.close()
    return fresh


def publish(
    topic: str,
    message: Payload,
    *,
    key: str | bytes | None = None,
    headers: Mapping[str, str | bytes] | None = None,
    id: str | None = None,
) -> Receipt:
    """Publishes in the background and returns at once. See `Client.publish`."""
    return _default().publish(topic, message, key=key, headers=headers, id=id)


def flush(timeout: float | None = None) -> None:
    """Waits until everything published is durable or refused. See `Client.flush`."""
    _default().flush(timeout)


@overload
def subscribe(
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
    """Calls `callback` with every message; blocks unless `background`. See `Client.subscribe`."""
    client = _default()
    if background:
        return client.subscribe(
            topic,
            callback,
            group=group,
            mode=mode,
            from_=from_,
            concurrency=concurrency,
            background=True,
            max_lease=max_lease,
        )
    client.subscribe(
        topic, callback, group=group, mode=mode, from_=from_, concurrency=concurrency, max_lease=max_lease
    )
    return None


def _default() -> Client:
    global _client
    with _lock:
        if _client is None:
            _client = Client()
        return _client
