"""Errors in the form that OpenAI's clients read."""

from typing import Any


class ApiError(Exception):
    """A request that is answered by an error.

    Args:
        status: of HTTP.
        message: one line: what, why, what to do.
        param: the key of the request that it is about.
        code: a word for programs.
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> dict[str, Any]:
        """As JSON."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        told = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": told}
