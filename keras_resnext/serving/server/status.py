"""What a request is refused with: gRPC's codes, and HTTP's as TF Serving maps them (model_servers/http_server.cc)."""

HTTP_STATUS = {
    "CANCELLED": 499, "UNKNOWN": 500, "INVALID_ARGUMENT": 400, "DEADLINE_EXCEEDED": 504, "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409, "PERMISSION_DENIED": 403, "RESOURCE_EXHAUSTED": 429, "FAILED_PRECONDITION": 400,
    "ABORTED": 409, "OUT_OF_RANGE": 400, "UNIMPLEMENTED": 501, "INTERNAL": 500, "UNAVAILABLE": 503, "DATA_LOSS": 500,
    "UNAUTHENTICATED": 401,
}  # fmt: skip
# TensorFlow's numbers of the same codes (tensorflow/core/protobuf/error_codes.proto).
CODES = {
    1: "CANCELLED", 2: "UNKNOWN", 3: "INVALID_ARGUMENT", 4: "DEADLINE_EXCEEDED", 5: "NOT_FOUND", 6: "ALREADY_EXISTS",
    7: "PERMISSION_DENIED", 8: "RESOURCE_EXHAUSTED", 9: "FAILED_PRECONDITION", 10: "ABORTED", 11: "OUT_OF_RANGE",
    12: "UNIMPLEMENTED", 13: "INTERNAL", 14: "UNAVAILABLE", 15: "DATA_LOSS", 16: "UNAUTHENTICATED",
}  # fmt: skip


class RequestError(Exception):
    """A request that gets no answer.

    Attributes:
        code: gRPC's name of the status.
        message: what was wrong and what was expected.
        http_status: where HTTP has a closer word than the code's, such as 413.
    """

    def __init__(self, code: str, message: str, http_status: int | None = None) -> None:
        super().__init__(code, message)
        self.code, self.message = code, message
        self.http_status = http_status or HTTP_STATUS[code]

    def __reduce__(self) -> tuple[type["RequestError"], tuple[str, str, int]]:
        return RequestError, (self.code, self.message, self.http_status)  # from another process


def invalid(message: str) -> RequestError:
    return RequestError("INVALID_ARGUMENT", message)
