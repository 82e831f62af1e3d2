"""gRPC's own services: health and reflection."""

from __future__ import annotations

import grpc

from harness.node import Node


def call(node: Node, path: str, request: bytes) -> bytes:
    with grpc.insecure_channel(node.url.removeprefix("http://")) as channel:
        response: bytes = channel.unary_unary(path)(request, timeout=10)
        return response


def test_health(shared_node: Node) -> None:
    # HealthCheckResponse{status: SERVING}
    assert call(shared_node, "/grpc.health.v1.Health/Check", b"") == b"\x08\x01"
    service = b"gem.v1.Publisher"
    assert call(shared_node, "/grpc.health.v1.Health/Check", b"\n" + bytes([len(service)]) + service) == b"\x08\x01"


def test_reflection_lists_the_services(shared_node: Node) -> None:
    with grpc.insecure_channel(shared_node.url.removeprefix("http://")) as channel:
        stub = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
        # ServerReflectionRequest{list_services: ""}
        answer: bytes = next(stub(iter([b"\x3a\x00"]), timeout=10))
        for name in (b"gem.v1.Publisher", b"gem.v1.Subscriber", b"gem.v1.Admin", b"grpc.health.v1.Health"):
            assert name in answer
