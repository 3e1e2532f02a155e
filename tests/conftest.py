"""Shared by all tests: no network, one profile for hypothesis, and the golden files."""

import itertools
import signal
import socket

import pytest
from goldens import NAMES, Golden
from hypothesis import settings
from platformdirs import user_cache_path
from ports import their_decays

from mlxarch.models import ling25

# What was compiled for the CPU is kept: it takes long, and is nobody's data.
KERNELS = user_cache_path("mlxarch") / "kernels"

settings.register_profile("mlxarch", derandomize=True, max_examples=30, deadline=None)
settings.load_profile("mlxarch")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """A test that reaches out fails; this machine may be spoken to."""
    connect = socket.socket.connect

    def guarded(self, address):
        local = self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1", "localhost")
        assert local, f"a test connects to {address}; tests use no network"
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture
def their_decay(monkeypatch):
    """Ling's memory fades as in mlx-lm."""
    monkeypatch.setattr(ling25, "decays", their_decays)


HOMES = itertools.count()


@pytest.fixture(autouse=True)
def own_folders(monkeypatch, tmp_path_factory):
    """What the app keeps for a person, a test keeps for itself; caches are one for all."""
    home = tmp_path_factory.getbasetemp() / "home"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    own = home / str(next(HOMES))
    for kind in ("DATA", "CONFIG", "STATE"):
        monkeypatch.setenv(f"XDG_{kind}_HOME", str(own / kind.lower()))
    kernels = home / "cache" / "mlxarch" / KERNELS.name
    if not kernels.is_symlink():
        KERNELS.mkdir(parents=True, exist_ok=True)
        kernels.parent.mkdir(parents=True, exist_ok=True)
        kernels.symlink_to(KERNELS)


@pytest.fixture(scope="session", params=NAMES)
def golden(request) -> Golden:
    """Each tiny checkpoint in turn, with what the reference says of it."""
    return Golden(request.param)


@pytest.fixture
def foreground():
    """Ctrl-C interrupts, also where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler
