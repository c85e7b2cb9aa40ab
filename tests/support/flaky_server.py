"""A local HTTP proxy that fails on demand, as servers and networks do."""

import contextlib
import http.client
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__all__ = ["Fault", "FlakyServer"]

_XML = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{}</Code><Message>it says so</Message></Error>'
_CODES = {403: "AccessDenied", 404: "NoSuchKey", 500: "InternalError", 503: "SlowDown"}
_NOT_PASSED_ON = ("connection", "transfer-encoding", "server", "date")


@dataclass
class Fault:
    """A failure of some requests.

    Attributes:
        what: an HTTP status, ``drop`` (closes the connection), ``cut`` (sends half of the body) or ``hang`` (waits).
        path: a regular expression for requests, such as ``GET /bucket/in``.
        times: number of requests that fail.
        code: the S3 error code sent with a status.
        seen: the requests that failed.
    """

    what: int | str
    path: str = ""
    times: float = float("inf")
    code: str = ""
    seen: list[str] = field(default_factory=list)


class FlakyServer:
    """Forwards requests to another local server, unless a fault matches.

    Attributes:
        faults: faults to apply; the first match wins.
        asked: method and path of each request.
        on_request: called with method and path of each request.
        on_sent: called with the number of bytes of each response.
        n_most: the largest number of simultaneous requests.
    """

    def __init__(self, upstream_port: int) -> None:
        self.faults: list[Fault] = []
        self.asked: list[str] = []
        self.on_request: Callable[[str], object] = lambda line: None
        self.on_sent: Callable[[int], object] = lambda n_bytes: None
        self.n_most = 0
        self._n_now = 0
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._upstream_port = upstream_port
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def reset(self) -> None:
        """Clears the faults, the recorded requests and the callbacks."""
        self._ended.set()  # releases hanging requests
        self._ended = threading.Event()
        self.faults, self.asked, self.n_most = [], [], 0
        self.on_request, self.on_sent = lambda line: None, lambda n_bytes: None

    def close(self) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _due(self, line: str) -> Fault | None:
        with self._lock:
            self.asked.append(line)
            for fault in self.faults:
                if len(fault.seen) < fault.times and re.search(fault.path, line):
                    fault.seen.append(line)
                    return fault
        return None

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        with self._lock:
            self._n_now += 1
            self.n_most = max(self.n_most, self._n_now)
        yield
        with self._lock:
            self._n_now -= 1

    def _handler(server) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - self is the handler
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                with server._counted():
                    self._answer()

            do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                line = f"{self.command} {self.path}"
                server.on_request(line)
                fault = server._due(line)
                if fault is not None and isinstance(fault.what, int):
                    code = fault.code or _CODES.get(fault.what, "")
                    self._send(fault.what, {"Content-Type": "application/xml"}, _XML.format(code).encode())
                elif fault is not None and fault.what in ("drop", "hang"):
                    self.close_connection = True
                    if fault.what == "hang":
                        server._ended.wait(20)
                else:
                    self._pass_on(body, is_cut=fault is not None)

            def _pass_on(self, body: bytes, *, is_cut: bool) -> None:
                upstream = http.client.HTTPConnection("127.0.0.1", server._upstream_port)
                with contextlib.closing(upstream):
                    headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
                    upstream.request(self.command, self.path, body, headers)
                    answer = upstream.getresponse()
                    content = answer.read()
                    kept = {
                        name: value
                        for name, value in answer.getheaders()
                        if name.lower() not in _NOT_PASSED_ON
                    }
                    self._send(answer.status, kept, content, is_cut=is_cut)

            def _send(
                self, status: int, headers: dict[str, str], content: bytes, *, is_cut: bool = False
            ) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if "content-length" not in map(str.lower, headers):
                    self.send_header("Content-Length", str(len(content)))
                self.close_connection = self.close_connection or is_cut
                self.end_headers()
                if self.command != "HEAD":
                    server.on_sent(len(content))
                    self.wfile.write(content[: len(content) // 2] if is_cut else content)

            def log_message(self, *arguments) -> None:
                pass

        return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # a refused client waits a second before it tries again

    def handle_error(self, *arguments) -> None:
        """Ignores disconnected clients, which the tests cause on purpose."""
