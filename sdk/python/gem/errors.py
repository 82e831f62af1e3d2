"""The errors of GEM: one class a code, the same codes as on every other interface."""

from __future__ import annotations

import grpc


class GemError(Exception):
    """A refusal or failure. Every code but `deadline` and `internal` means: not stored, and never will be."""

    code = "internal"

    def __init__(self, detail: str, retry_after: float | None = None) -> None:
        super().__init__(f"{self.code}: {detail}")
        self.detail = detail
        #: Seconds after which a retry makes sense, where the mesh said so.
        self.retry_after = retry_after


class InvalidArgument(GemError):
    """The request itself is wrong."""

    code = "invalid_argument"


class Unauthenticated(GemError):
    """No valid credentials."""

    code = "unauthenticated"


class PermissionDenied(GemError):
    """Credentials without the right."""

    code = "permission_denied"


class NotFound(GemError):
    """The named thing is not there."""

    code = "not_found"


class Conflict(GemError):
    """The request contradicts what stands."""

    code = "conflict"


class TooLarge(GemError):
    """Over a limit on size."""

    code = "too_large"


class UnsupportedMediaType(GemError):
    """The content type is not understood."""

    code = "unsupported_media_type"


class Throttled(GemError):
    """Refused for now; retry after `retry_after` seconds."""

    code = "throttled"


class Internal(GemError):
    """A fault of GEM's own; the outcome is unknown."""

    code = "internal"


class Unavailable(GemError):
    """The mesh cannot serve this now."""

    code = "unavailable"


class Deadline(GemError):
    """No answer in time; the outcome is unknown."""

    code = "deadline"


_BY_CODE: dict[str, type[GemError]] = {
    cls.code: cls
    for cls in (
        InvalidArgument,
        Unauthenticated,
        PermissionDenied,
        NotFound,
        Conflict,
        TooLarge,
        UnsupportedMediaType,
        Throttled,
        Internal,
        Unavailable,
        Deadline,
    )
}

_BY_STATUS: dict[grpc.StatusCode, str] = {
    grpc.StatusCode.INVALID_ARGUMENT: "invalid_argument",
    grpc.StatusCode.OUT_OF_RANGE: "invalid_argument",
    grpc.StatusCode.UNAUTHENTICATED: "unauthenticated",
    grpc.StatusCode.PERMISSION_DENIED: "permission_denied",
    grpc.StatusCode.NOT_FOUND: "not_found",
    grpc.StatusCode.ALREADY_EXISTS: "conflict",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "throttled",
    grpc.StatusCode.UNIMPLEMENTED: "unsupported_media_type",
    grpc.StatusCode.UNAVAILABLE: "unavailable",
    grpc.StatusCode.DEADLINE_EXCEEDED: "deadline",
}

#: What may succeed later, unchanged and with the same ids.
RETRYABLE = frozenset({"throttled", "unavailable", "deadline", "internal"})


def from_code(code: str, detail: str, retry_after_ms: int | None = None) -> GemError:
    """The error of a code as the mesh names it."""
    retry_after = None if retry_after_ms is None else retry_after_ms / 1000
    return _BY_CODE.get(code, GemError)(detail, retry_after)


def from_rpc(error: grpc.RpcError, where: str) -> GemError:
    """The error that a failed call carries: its code from the details, else from the status."""
    status = error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN
    detail = (error.details() if isinstance(error, grpc.Call) else None) or str(error)
    code, retry_after_ms = _details(error)
    if code is None:
        code = _BY_STATUS.get(status, "internal")
    return from_code(code, f"{detail} ({where})", retry_after_ms)


def _details(error: grpc.RpcError) -> tuple[str | None, int | None]:
    """The reason of google.rpc.ErrorInfo and the delay of google.rpc.RetryInfo, where they are there."""
    if not isinstance(error, grpc.Call):
        return None, None
    from gem.v1 import status_pb2

    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            return _parse(status_pb2.Status.FromString(value))
    return None, None


def _parse(status: object) -> tuple[str | None, int | None]:
    from gem.v1 import status_pb2

    assert isinstance(status, status_pb2.Status)
    code: str | None = None
    retry_after_ms: int | None = None
    for detail in status.details:
        if detail.type_url.endswith("google.rpc.ErrorInfo"):
            code = status_pb2.ErrorInfo.FromString(detail.value).reason
        elif detail.type_url.endswith("google.rpc.RetryInfo"):
            delay = status_pb2.RetryInfo.FromString(detail.value).retry_delay
            retry_after_ms = delay.seconds * 1000 + delay.nanos // 1_000_000
    return code, retry_after_ms
