"""
A Hub on the loopback: as much of its HTTP API as `huggingface_hub`, `transformers`, `peft` and `datasets` use.

    with HubServer() as hub, hub.connected(folder, hub.token):  # this process
        create_repo("user/x", private=True)
    subprocess.run(command, env=hub.environment(folder, hub.token))  # a process of its own

What is there is the table `ROUTES` of `tests.hub_routes`: who am I, creating and deleting repositories, validating
cards, information, trees, refs, history, branches and tags, commits, LFS, downloads with HEAD, Range and redirect.
Content is in memory, and every commit keeps its files. LFS objects lie on a storage of another origin (`localhost`),
as on the Hub, so that a client which sends its token there shows in `hub.requests`. `hub.fail` and `hub.cut` break
the next requests of a route.

With `hub.part_size` objects above it are uploaded in parts. What is not there: Xet (never announced), pull requests,
`.gitignore`, gated repositories, web pages.
A repository belongs to the user it is named after; a private one does not exist for anybody else.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import parse_qs

from huggingface_hub import close_session, constants, hf_api
from transformers.utils import hub as transformers_hub

from tests.hub_messages import Ask, Refused, Reply, reply
from tests.hub_repository import Repository
from tests.hub_routes import Route, find_route


TOKEN = "hf_dummyTokenOfTheTests"
CUT = 0
"""Stands for a cut connection among the statuses of the faults."""
LOST = -1
"""Stands for a request that is carried out and not answered."""


class HubServer:
    """The state of the Hub, and the server while the context is open."""

    def __init__(self):
        self.token = TOKEN
        self.users = {TOKEN: "user"}
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.storage: dict[str, bytes] = {}
        self.requests: list[Ask] = []
        self.lock = threading.RLock()
        self.part_size: int | None = None
        """Bytes of a part, where larger objects are to be uploaded in parts."""
        self.parts: dict[str, dict[int, bytes]] = {}
        self._faults: dict[str, list[tuple[int, dict[str, str]]]] = {}

    def __enter__(self) -> HubServer:
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.storage_url = f"http://localhost:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    # --- for the tests

    def repository(self, name: str, kind: str = "model") -> Repository:
        return self.repositories[kind, name]

    def files(self, name: str, revision: str = "main", kind: str = "model") -> dict[str, bytes]:
        """What lies in a repository at a revision, by path."""
        commit = self.repository(name, kind).find(revision)
        assert commit is not None, f"{name} has no revision {revision}"
        return {path: file.content for path, file in commit.files.items()}

    def routes(self) -> list[str]:
        return [ask.route for ask in self.requests]

    def fail(self, route: str, status: int = 503, *, times: int = 1, retry_after: int | None = None) -> None:
        """Answer the next requests of a route with an error, and the seconds to wait before the next if given."""
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        self._faults.setdefault(route, []).extend(times * [(status, headers)])

    def mend(self) -> None:
        """Forget the faults that are left."""
        self._faults.clear()

    def lose_answer(self, route: str) -> None:
        """Carry the next request of a route out, and close the connection instead of answering."""
        self._faults.setdefault(route, []).append((LOST, {}))

    def cut(self, route: str, *, times: int = 1) -> None:
        """Close the connection in the middle of the body: of the request where it has one, else of the answer."""
        self._faults.setdefault(route, []).extend(times * [(CUT, {})])

    def expect(self, ask: Ask) -> tuple[int, dict[str, str]] | None:
        """Note a request and take the fault that awaits it."""
        with self.lock:
            self.requests.append(ask)
            return self._faults[ask.route].pop(0) if self._faults.get(ask.route) else None

    def environment(self, home: Path, token: str | None = None) -> dict[str, str]:
        """Variables of a process that knows this Hub and no other, with its cache in `home`."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
        ours = {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
            "NO_PROXY": "127.0.0.1,localhost",
        }
        return {**kept, **ours, **({"HF_TOKEN": token} if token else {})}

    @contextmanager
    def connected(self, home: Path, token: str | None = None) -> Iterator[None]:
        """The same for this process, which has read its environment long ago."""
        template = f"{self.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        settings = {
            "ENDPOINT": self.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_OFFLINE": False,
            "HF_TOKEN_PATH": str(home / "token"),
        }
        with ExitStack() as stack:
            stack.callback(close_session)
            stack.enter_context(mock.patch.multiple(constants, **settings))
            stack.enter_context(mock.patch.object(hf_api.api, "endpoint", self.url))
            stack.enter_context(mock.patch.object(transformers_hub, "_hf_api", None))
            stack.enter_context(mock.patch.dict(os.environ, self.environment(home, token), clear=True))
            close_session()
            yield


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # closing the server waits for the requests under way

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is killed or gives up is no event here."""


class _Handler(BaseHTTPRequestHandler):
    """One request per connection (HTTP/1.0), so that no connection outlives the server."""

    hub: HubServer
    timeout = 10  # seconds of silence

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _serve(self) -> None:
        path, _, query = self.path.partition("?")
        length = int(self.headers.get("Content-Length") or 0)
        route, groups = find_route(self.command, path)
        ask = Ask(route.__name__, self.command, path, groups, parse_qs(query), self.headers)
        fault, headers = self.hub.expect(ask) or (None, {})
        if fault == CUT and length:
            self.rfile.read(length // 2)
            return
        ask.body = self.rfile.read(length)
        answer = self._answer(route, ask, fault, headers)
        if fault == LOST:
            return
        self.send_response(answer.status)
        for key, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[: len(answer.body) // 2] if fault == CUT else answer.body)

    def _answer(self, route: Route, ask: Ask, fault: int | None, headers: dict[str, str]) -> Reply:
        try:
            if fault and fault != LOST:
                raise Refused(fault, "Broken by the test", **headers)
            with self.hub.lock:
                return route(self.hub, ask)
        except Refused as refused:
            return refused.reply
        except Exception as error:  # 501, which clients do not repeat
            return reply({"error": f"{ask.route} of the test Hub failed: {error!r}"}, 501)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve
