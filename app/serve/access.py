"""Who may speak to a server."""

import hmac
from dataclasses import dataclass
from email.message import Message
from ipaddress import ip_address
from urllib.parse import urlsplit


class Denied(Exception):  # noqa: N818
    """A request that is not answered: its status of HTTP, and why."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status, self.reason = status, reason


@dataclass(frozen=True)
class Access:
    """A key that requests need; without one they need to come from this machine.

    A page in a browser here is not this machine: it is known by its Origin, and by the name it has
    this server's address under.
    """

    key: str | None = None

    def check(self, headers: Message) -> None:
        """Let a request with these headers pass.

        Raises: Denied.
        """
        if self.key is not None:
            given = headers.get("Authorization", "")
            if not hmac.compare_digest(given.encode(), f"Bearer {self.key}".encode()):
                raise Denied(401, "The key is not known; send it as `Authorization: Bearer KEY`.")
            return
        host, origin = headers.get("Host", ""), headers.get("Origin")
        if not is_loopback(_hostname(f"//{host}")):
            raise Denied(403, f"Host is {host!r}; without a key only localhost is answered.")
        if origin is not None and not is_loopback(_hostname(origin)):
            raise Denied(403, f"Origin is {origin!r}; without a key no other site is answered.")


def is_loopback(host: str | None) -> bool:
    """Whether only this machine can reach an address, or is meant by a name."""
    if host is None:
        return False
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
