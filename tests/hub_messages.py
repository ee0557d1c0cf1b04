"""Requests and answers of the test Hub."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Ask:
    """A request: the route that took it, the groups of its path, its query, headers and body."""

    route: str
    method: str
    path: str
    groups: dict[str, Any]  # None for a group that took no part
    query: dict[str, list[str]]
    headers: Any
    body: bytes = b""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def token(self) -> str | None:
        scheme, _, token = (self.headers.get("Authorization") or "").partition(" ")
        return token if scheme == "Bearer" else None


@dataclass
class Reply:
    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class Refused(Exception):
    """An answer that is an error; `code` is what the client reads its exception type from."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str):
        super().__init__(message)
        headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **headers}
        self.reply = reply({"error": message}, status, **headers)


def reply(content: Any, status: int = 200, **headers: str) -> Reply:
    return Reply(json.dumps(content).encode(), status, {"Content-Type": "application/json", **headers})
