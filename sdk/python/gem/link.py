"""The way to the mesh: any of the nodes named, or learned from one of them; the next one where it fails."""

from __future__ import annotations

import ipaddress
import os
import threading
import weakref
from urllib.parse import urlsplit

import grpc

from gem.errors import InvalidArgument
from gem.v1 import admin_pb2, mesh_pb2

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

# How often the nodes of the mesh are asked for, and how long an answer may take, in seconds.
_LEARN_EVERY = 30.0
_LEARN_TIMEOUT = 5.0
# After an attempt that failed.
_LEARN_AGAIN = 1.0
# More than these are not kept: any node takes any request.
_LEARNED_MAX = 64
_SERVING = (mesh_pb2.NODE_STATE_ALIVE, mesh_pb2.NODE_STATE_SUSPECT)


class Link:
    """One channel at a time to one of several nodes.

    The nodes named come first, then those that the mesh tells of. Those are asked for in the background, for the
    node that is talked to can't be asked any more once it is gone.
    """

    def __init__(self, url: str | list[str] | None) -> None:
        if url is None:
            url = os.environ.get("GEM_URL") or DEFAULT_URL
        urls = url.split(",") if isinstance(url, str) else url
        self._given = [_target(u.strip()) for u in urls if u.strip()]
        self._targets = list(self._given)
        if not self._targets:
            raise InvalidArgument("no URL was given: pass http://host:port, or set GEM_URL")
        self._lock = threading.Lock()
        self._at = 0
        self._channel: grpc.Channel | None = None
        self._learner: threading.Thread | None = None
        self._closed = threading.Event()

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
            if self._learner is None and not self._closed.is_set():
                args = (weakref.ref(self), self._closed)
                self._learner = threading.Thread(target=_learn, args=args, name="gem-nodes", daemon=True)
                self._learner.start()
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
        self._closed.set()
        with self._lock:
            channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def learn(self) -> bool:
        """Asks the node now talked to for the others; answers whether it told."""
        with self._lock:
            channel, where = self._channel, self._targets[self._at]
        if channel is None:
            return False
        request = admin_pb2.ListNodesRequest()
        try:
            call = channel.unary_unary(
                "/gem.v1.Admin/ListNodes",
                request_serializer=admin_pb2.ListNodesRequest.SerializeToString,
                response_deserializer=admin_pb2.ListNodesResponse.FromString,
            )
            answer = call(request, timeout=_LEARN_TIMEOUT)
        except (grpc.RpcError, ValueError):  # ValueError: the channel was closed meanwhile
            return False
        told = [_told(node.http, where) for node in answer.nodes if node.state in _SERVING and not node.is_me]
        with self._lock:
            now = self._targets[self._at]
            learned = dict.fromkeys(target for target in [now, *told] if target and target not in self._given)
            self._targets = self._given + list(learned)[:_LEARNED_MAX]
            self._at = self._targets.index(now)
        return True


def _learn(link: weakref.ref[Link], closed: threading.Event) -> None:
    """Keeps the nodes of a link up to date, until it is closed or nobody holds it."""
    wait = 0.0
    while not closed.wait(wait):
        held = link()
        if held is None:
            return
        wait = _LEARN_EVERY if held.learn() else _LEARN_AGAIN
        del held


def _told(url: str, by: str) -> str | None:
    """The target of a node that another told of, where it can be reached from here."""
    try:
        target = _target(url)
    except (InvalidArgument, ValueError):
        return None
    if _is_local(target) and not _is_local(by):
        return None  # its loopback is not ours
    return None if target.startswith(("0.0.0.0:", "[::]:")) else target


def _is_local(target: str) -> bool:
    host = target.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _target(url: str) -> str:
    parts = urlsplit(url if "//" in url else f"//{url}", scheme="http")
    if parts.scheme != "http" or not parts.hostname:
        raise InvalidArgument(f"{url!r} is not the URL of a node: write http://host:port")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{parts.port or 7400}"
