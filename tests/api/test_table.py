"""Runs the API table: every row of the contract over every interface, the cases kept as data."""

from __future__ import annotations

import json
import re
import tomllib
import uuid
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format

from gem.errors import _details
from gem.v1 import admin_pb2, publisher_pb2, subscriber_pb2
from harness.node import Node
from harness.rest import Rest

HERE = Path(__file__).parent
INTERFACES = ("rest", "grpc")
SERVICES = {
    name: file.DESCRIPTOR.services_by_name[name]
    for name, file in (("Publisher", publisher_pb2), ("Subscriber", subscriber_pb2), ("Admin", admin_pb2))
}


def load() -> list[dict[str, Any]]:
    cases = []
    for path in sorted(HERE.glob("*.toml")):
        for case in tomllib.loads(path.read_text())["case"]:
            case["file"] = path.stem
            for interface in INTERFACES:
                assert (interface in case) != (f"{interface}_na" in case), (
                    f"{path.name}: {case['row']!r} needs either cases or a reason for {interface}"
                )
            cases.append(case)
    rows = [case["row"] for case in cases]
    assert len(rows) == len(set(rows)), "two cases have the same row"
    return cases


CASES = load()
CELLS = [
    pytest.param(case, interface, id=f"{case['file']}: {case['row']} [{interface}]")
    for case in CASES
    for interface in INTERFACES
    if interface in case
]


@pytest.mark.parametrize(("case", "interface"), CELLS)
def test_cell(case: dict[str, Any], interface: str, shared_node: Node) -> None:
    values = {"t": f"t-{uuid.uuid4().hex[:12]}"}
    run = run_rest if interface == "rest" else run_grpc
    for number, step in enumerate(case[interface], 1):
        try:
            run(shared_node, step, values)
        except AssertionError as error:
            raise AssertionError(f"step {number}, {fill(step['call'], values)}: {error}") from None


def test_every_error_code_has_a_row() -> None:
    named = {step.get("reason") for case in CASES for step in case.get("grpc", [])}
    named |= {
        json.loads(step["expect"]).get("code")
        for case in CASES
        for step in case.get("rest", [])
        if step.get("expect", "").startswith("{")
    }
    later = {
        "unauthenticated": "tokens come with TLS",
        "permission_denied": "tokens come with TLS",
        "throttled": "needs pressure: tests/process/test_pressure.py",
        "unavailable": "needs a fault: tests/process/test_disk_full.py",
        "internal": "needs a fault",
        "deadline": "needs a fault",
    }
    every = set(json.loads((HERE / "codes.json").read_text()))
    assert every - set(later) <= named, f"no case for {sorted(every - set(later) - named)}"


def run_rest(node: Node, step: dict[str, Any], values: dict[str, str]) -> None:
    method, path = fill(step["call"], values).split(" ", 1)
    headers = {k: fill(v, values) for k, v in step.get("headers", {}).items()}
    body: Any = None
    if "body" in step:
        body = fill(step["body"], values).encode()
        headers.setdefault("content-type", "application/json")
    elif "raw" in step:
        body = fill(step["raw"], values).encode()
    elif "zeros" in step:
        body = b"0" * step["zeros"]
    elif "batch_of" in step:
        count, size = step["batch_of"]
        body = json.dumps({"messages": [{"payload": "0" * size}] * count}).encode()
    answer = Rest(node.url).call(method, path, body, headers)
    assert answer.status == step["status"], f"status {answer.status}, not {step['status']}: {answer.body[:600]!r}"
    if answer.status >= 400:
        assert answer.headers.get("content-type", "").startswith("application/problem+json"), answer.headers
        problem = answer.json()
        assert {"type", "title", "status", "detail", "code"} <= problem.keys(), problem
        assert problem["status"] == answer.status and problem["detail"]
    got: Any = None
    if answer.body:
        try:
            got = answer.json()
        except ValueError:
            got = answer.body.decode()
    check(got, step, values)
    for name, value in step.get("expect_headers", {}).items():
        assert matches(answer.headers.get(name.lower()), value), f"header {name} is {answer.headers.get(name.lower())!r}"


def run_grpc(node: Node, step: dict[str, Any], values: dict[str, str]) -> None:
    service, method = step["call"].split(".")
    descriptor = SERVICES[service].methods_by_name[method]
    request_class = _class(descriptor.input_type)
    response_class = _class(descriptor.output_type)
    texts = step.get("requests") or [step.get("request", "{}")]
    requests = [json_format.ParseDict(json.loads(fill(text, values)), request_class()) for text in texts]
    if "payload_zeros" in step:
        requests[0].messages[0].payload = b"0" * step["payload_zeros"]
    path = f"/gem.v1.{service}/{method}"
    with grpc.insecure_channel(
        node.url.removeprefix("http://"),
        options=[("grpc.max_send_message_length", 64 << 20), ("grpc.max_receive_message_length", 64 << 20)],
    ) as channel:
        kinds = {"request_serializer": request_class.SerializeToString, "response_deserializer": response_class.FromString}
        try:
            if descriptor.server_streaming:
                call = channel.stream_stream(path, **kinds)(iter_open(requests), timeout=60)
                got: Any = [plain(next(call)) for _ in range(step.get("responses", len(requests)))]
                call.cancel()
            else:
                got = plain(channel.unary_unary(path, **kinds)(requests[0], timeout=60))
            code, reason = "OK", None
        except grpc.RpcError as error:
            got, code, reason = None, error.code().name, _details(error)[0]
            detail = error.details()
            assert code == step.get("code", "OK"), f"{code}, not {step.get('code', 'OK')}: {detail}"
            assert detail, "an error without words"
    assert code == step.get("code", "OK"), f"{code}, not {step.get('code', 'OK')}: {got}"
    if "reason" in step:
        assert reason == step["reason"], f"reason {reason!r}, not {step['reason']!r}"
    check(got, step, values)


def iter_open(requests: list[Any]) -> Any:
    """A stream that stays open after its last request, so that the answers can come."""
    import threading

    yield from requests
    threading.Event().wait(30)


def _class(descriptor: Any) -> Any:
    from google.protobuf import message_factory

    return message_factory.GetMessageClass(descriptor)


def plain(message: Any) -> Any:
    return json_format.MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def fill(text: str, values: dict[str, str]) -> str:
    text = text.replace("{t}", values["t"])
    return re.sub(r"\$\{(\w+)\}", lambda m: values[m.group(1)], text)


def check(got: Any, step: dict[str, Any], values: dict[str, str]) -> None:
    if "expect" in step:
        want = json.loads(fill(step["expect"], values))
        assert matches(got, want), f"answer {json.dumps(got)[:800]} does not match {json.dumps(want)}"
    for key in step.get("absent", []):
        assert isinstance(got, dict) and key not in got, f"{key!r} should not be in {got}"
    for name, path in step.get("capture", {}).items():
        value = got
        for part in path.split("."):
            value = value[int(part)] if isinstance(value, list) else value[part]
        values[name] = str(value)


def matches(got: Any, want: Any) -> bool:
    if isinstance(want, dict):
        return isinstance(got, dict) and all(k in got and matches(got[k], v) for k, v in want.items())
    if isinstance(want, list):
        return isinstance(got, list) and len(got) == len(want) and all(map(matches, got, want))
    if want == "<any>":
        return got is not None
    if want == "<string>":
        return isinstance(got, str) and bool(got)
    if want == "<number>":
        return isinstance(got, int) or (isinstance(got, str) and got.isdigit())
    if want == "<uuid>":
        return isinstance(got, str) and bool(re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", got))
    if want == "<time>":
        return isinstance(got, str) and bool(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", got))
    if isinstance(want, int) and not isinstance(want, bool) and isinstance(got, str):
        return got == str(want)  # protobuf's JSON writes 64-bit numbers as text
    return bool(got == want)
