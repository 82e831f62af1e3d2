#!/bin/sh
# Generates the Python client's protobuf modules into the folder given (default: the SDK itself).
set -eu
cd "$(dirname "$0")/.."
out=${1:-sdk/python}
mkdir -p "$out/gem/v1"
python3 -m grpc_tools.protoc -I proto -I sdk/python/proto --python_out="$out" --mypy_out="$out" \
    gem/v1/message.proto gem/v1/publisher.proto gem/v1/subscriber.proto gem/v1/mesh.proto gem/v1/admin.proto gem/v1/status.proto
: >"$out/gem/v1/__init__.py"
