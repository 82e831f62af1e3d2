"""A plain HTTP client on what Python ships."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body) if self.body else None


class Rest:
    """One keep-alive connection to a node."""

    def __init__(self, url: str, timeout: float = 70.0) -> None:
        parts = urlsplit(url)
        assert parts.hostname and parts.port
        self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)

    def call(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        """Sends `body` as it is where it is bytes or str, else as JSON."""
        headers = dict(headers or {})
        if body is None:
            data = None
        elif isinstance(body, bytes):
            data = body
        elif isinstance(body, str):
            data = body.encode()
        else:
            data = json.dumps(body).encode()
            headers.setdefault("content-type", "application/json")
        try:
            self._connection.request(method, path, body=data, headers=headers)
            response = self._connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        except Exception:
            self._connection.close()
            raise

    def publish(self, topic: str, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Publishes a batch; answers its results, or raises where it was refused whole."""
        answer = self.call(
            "POST", f"/v1/topics/{topic}/messages", {"messages": messages}, {"content-type": "application/vnd.gem.batch+json"}
        )
        if answer.status not in (201, 207):
            raise Refused(answer)
        results: list[dict[str, Any]] = answer.json()["results"]
        return results

    def read_all(self, topic: str, limit: int = 1000) -> list[dict[str, Any]]:
        """Everything the topic holds now, from the earliest."""
        out: list[dict[str, Any]] = []
        query = f"from=earliest&limit={limit}"
        while True:
            answer = self.call("GET", f"/v1/topics/{topic}/messages?{query}")
            if answer.status != 200:
                raise Refused(answer)
            page = answer.json()
            if not page["messages"]:
                return out
            out += page["messages"]
            query = f"cursor={page['cursor']}&limit={limit}"

    def pull(self, topic: str, group: str, consumer: str = "c", **body: Any) -> list[dict[str, Any]]:
        answer = self.call("POST", f"/v1/topics/{topic}/groups/{group}/pull", {"consumer": consumer, **body})
        if answer.status != 200:
            raise Refused(answer)
        messages: list[dict[str, Any]] = answer.json()["messages"]
        return messages

    def settle(self, verb: str, topic: str, group: str, tokens: list[str], **body: Any) -> list[str]:
        answer = self.call("POST", f"/v1/topics/{topic}/groups/{group}/{verb}", {"tokens": tokens, **body})
        if answer.status != 200:
            raise Refused(answer)
        return [result["status"] for result in answer.json()["results"]]


class Refused(Exception):
    def __init__(self, answer: Answer) -> None:
        super().__init__(f"{answer.status}: {answer.body[:500]!r}")
        self.answer = answer
        try:
            self.code = answer.json()["code"]
        except Exception:
            self.code = ""
