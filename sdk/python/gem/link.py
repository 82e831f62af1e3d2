"""The way to the mesh: any of the nodes named, the next one where it fails."""

from __future__ import annotations

import os
import threading
from urllib.parse import urlsplit

import grpc

from gem.errors import InvalidArgument

DEFAULT_URL = "http://127.0.0.1:7400"

_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A channel of its own for every client: closing one closes no other.
    ("grpc.use_local_subchannel_pool", 1),
]


class Link:
    """One channel at a time to one of several nodes."""

    def __init__(self, url: str | list[str] | None) -> None:
        if url is None:
            url = os.environ.get("GEM_URL") or DEFAULT_URL
        urls = url.split(",") if isinstance(url, str) else url
        self._targets = [_target(u.strip()) for u in urls if u.strip()]
        if not self._targets:
            raise InvalidArgument("no URL was given: pass http://host:port, or set GEM_URL")
        self._lock = threading.Lock()
        self._at = 0
        self._channel: grpc.Channel | None = None

    @property
    def nodes(self) -> int:
        """How many nodes are known."""
        return len(self._targets)

    @property
    def where(self) -> str:
        """The node now talked to, for error messages."""
        return self._targets[self._at]

    def channel(self) -> grpc.Channel:
        """The channel now in use."""
        with self._lock:
            if self._channel is None:
                self._channel = grpc.insecure_channel(self._targets[self._at], options=_OPTIONS)
            return self._channel

    def failed(self, channel: grpc.Channel) -> None:
        """Turns to the next node, unless another thread already has."""
        with self._lock:
            if self._channel is not channel or len(self._targets) == 1:
                return
            self._channel = None
            self._at = (self._at + 1) % len(self._targets)
        channel.close()

    def close(self) -> None:
        """Closes the channel."""
        with self._lock:
            channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()


def _target(url: str) -> str:
    parts = urlsplit(url if "//" in url else f"//{url}", scheme="http")
    if parts.scheme != "http" or not parts.hostname:
        raise InvalidArgument(f"{url!r} is not the URL of a node: write http://host:port")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{parts.port or 7400}"
