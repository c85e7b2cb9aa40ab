"""A local server of weight files whose transfers can be cut off."""

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class WeightServer:
    """Serves bytes by name.

    Attributes:
        files: contents by name.
        cut: number of bytes, by name, after which the connection is closed.
        chunked: names sent with chunked encoding, without a length.
        on_cut: called before a connection is closed early.
        asked: requested names, in order.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut: dict[str, int] = {}
        self.chunked: set[str] = set()
        self.on_cut: Callable[[], None] = lambda: None
        self.asked: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/models/{name}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(server) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - self is the handler
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                name = self.path.rpartition("/")[2]
                server.asked.append(name)
                self.close_connection = True
                if name not in server.files:
                    self.send_error(404)
                    return
                content = server.files[name]
                sent = content[: server.cut.get(name, len(content))]
                self.send_response(200)
                if name in server.chunked:
                    self.send_header("Transfer-Encoding", "chunked")
                    sent = b"%x\r\n%s" % (len(content), sent) + b"\r\n0\r\n\r\n" * (sent == content)
                else:
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(sent)
                self.wfile.flush()
                if name in server.cut:
                    server.on_cut()

            def log_message(self, *arguments) -> None:
                pass

        return Handler
