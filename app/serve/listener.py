"""The server's socket, and its life."""

import socket
import sys
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from mlxarch.errors import MlxarchError

from .access import Access
from .generator import Generator
from .handler import Handler


class Listener(ThreadingHTTPServer):
    """Listens from the beginning, and answers once there is a generator.

    Raises: MlxarchError if the address cannot be had.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, host: str, port: int):
        self.generator: Generator | None = None
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), BaseHTTPRequestHandler)
        except (OSError, OverflowError) as error:
            raise MlxarchError(
                f"{host}, port {port}, cannot be listened on: {error}. "
                "Choose another --port or --host."
            ) from error
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self.server_port}/v1"

    def serve(self, generator: Generator, name: str, known: set[str], access: Access) -> None:
        """Answer until somebody interrupts.

        Raises: MlxarchError if nothing more can be computed.
        """
        self.generator = generator
        self.RequestHandlerClass = partial(Handler, generator, name, known, access)
        self.serve_forever()

    def service_actions(self) -> None:
        """Now and then: see whether anybody still computes."""
        assert self.generator is not None
        if not self.generator.is_healthy:
            raise MlxarchError(f"The model has stopped: {self.generator.failure!r}.")

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves is no error."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)

    def server_bind(self) -> None:
        """Without asking for this machine's name, which may take long."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.server_address[:2]
