"""Messages on their way in and out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NamedTuple

from gem.v1 import message_pb2

if TYPE_CHECKING:
    from gem.subscription import Settler

#: What `publish` takes: dict and list become JSON, str its UTF-8 bytes, bytes stay as they are.
Payload = dict[str, Any] | list[Any] | str | bytes


class Placed(NamedTuple):
    """Where a message is stored, for ever."""

    id: str
    partition: int
    offset: int
    duplicate: bool


def encode(
    message: Payload,
    key: str | bytes | None,
    headers: Mapping[str, str | bytes] | None,
    id: str | None,
) -> message_pb2.Message:
    """The message as it travels."""
    out = message_pb2.Message(id=id or "")
    content_type: bytes | None = None
    if isinstance(message, (bytes, bytearray, memoryview)):
        out.payload = bytes(message)
    elif isinstance(message, str):
        out.payload = message.encode()
        content_type = b"text/plain; charset=utf-8"
    elif isinstance(message, (dict, list)):
        out.payload = json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode()
        content_type = b"application/json"
    else:
        raise TypeError(f"a message is a dict, a list, a str or bytes, not {type(message).__name__}")
    if key is not None:
        out.key = key.encode() if isinstance(key, str) else key
    for name, value in (headers or {}).items():
        name = name.lower()
        if name == "content-type":
            content_type = None
        out.headers.add(name=name, value=value.encode() if isinstance(value, str) else value)
    if content_type is not None:
        out.headers.add(name="content-type", value=content_type)
    return out


class Message:
    """A message as it was stored, handed to a callback."""

    __slots__ = ("_raw", "_settler", "_settled")

    def __init__(self, raw: message_pb2.StoredMessage, settler: Settler | None = None) -> None:
        self._raw = raw
        self._settler = settler
        self._settled = False

    @property
    def id(self) -> str:
        """The message's id: its publisher's, or the one that the mesh gave it."""
        return self._raw.id

    @property
    def topic(self) -> str:
        """The topic."""
        return self._raw.topic

    @property
    def partition(self) -> int:
        """The number of its partition."""
        return self._raw.partition

    @property
    def offset(self) -> int:
        """Its place in the partition."""
        return self._raw.offset

    @property
    def timestamp(self) -> datetime:
        """When it was stored, by the mesh's clock."""
        stamp = self._raw.timestamp
        return datetime.fromtimestamp(stamp.seconds + stamp.nanos / 1e9, tz=timezone.utc)

    @property
    def delivery(self) -> int:
        """How often the group handed it out, this time included; 0 without a group."""
        return self._raw.delivery

    @property
    def payload(self) -> bytes:
        """The payload."""
        return self._raw.payload

    @property
    def key(self) -> str | bytes | None:
        """The key: text where it is UTF-8."""
        return _text(self._raw.key) if self._raw.HasField("key") else None

    @property
    def headers(self) -> dict[str, str | bytes]:
        """The headers, names in lower case: text where the value is UTF-8."""
        return {header.name: _text(header.value) for header in self._raw.headers}

    def text(self) -> str:
        """The payload as UTF-8 text."""
        return self._raw.payload.decode()

    def json(self) -> Any:
        """The payload parsed as JSON."""
        return json.loads(self._raw.payload)

    def ack(self) -> None:
        """Done: the group never gets it again."""
        self._settle(lambda settler, token: settler.ack(token))

    def nack(self, delay: float = 0.0) -> None:
        """Not done: it is delivered again after `delay` seconds."""
        self._settle(lambda settler, token: settler.nack(token, delay))

    def extend(self, by: float) -> None:
        """Keeps the lease until `by` seconds from now."""
        self._need_settler().extend([self._raw.ack_token], by)

    @property
    def settled(self) -> bool:
        """Whether it was acked or nacked here."""
        return self._settled

    def _settle(self, how: Callable[[Settler, str], None]) -> None:
        how(self._need_settler(), self._raw.ack_token)
        self._settled = True

    def _need_settler(self) -> Settler:
        if self._settler is None:
            raise ValueError("this message was read without a group: there is nothing to settle")
        return self._settler

    def __str__(self) -> str:
        body = self._raw.payload
        try:
            shown = body.decode()
        except UnicodeDecodeError:
            shown = f"<{len(body)} bytes>"
        if len(shown) > 200:
            shown = shown[:200] + "…"
        return f"{self.topic}[{self.partition}:{self.offset}] {shown}"

    def __repr__(self) -> str:
        return f"<gem.Message {self.id} {self}>"


def _text(raw: bytes) -> str | bytes:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw
