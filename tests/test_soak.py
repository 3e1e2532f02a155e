"""The hour-long soak itself is no test; that it can be run is, and that it sees what grows."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parent / "benchmarks" / "soak.py"


@pytest.mark.slow
def test_a_few_seconds_of_the_soak_come_to_a_verdict():
    run = subprocess.run(
        [sys.executable, str(SOAK), "0.2", "--share", "2"],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert re.search(r"^engine: [+-][\d.]+ MB an hour", run.stdout, re.MULTILINE), run.stderr


@pytest.mark.parametrize(
    ("grows", "an_hour"), [(None, 0), ("app", 7), ("engine", 20), ("held", 60)]
)
def test_what_grows_is_seen(grows, an_hour, monkeypatch):
    monkeypatch.syspath_prepend(SOAK.parent)
    soak = importlib.import_module("soak")

    def sample(minute):
        chance = 10 * (minute % 3)
        sizes = {"app": 100.0, "engine": 280.0 + chance, "held": 30.0 + chance}
        for name in {"held": ["engine", "held"], None: []}.get(grows, [grows]):
            sizes[name] += an_hour * minute / 60
        return soak.Sample(60.0 * minute, minute, minute, **sizes, objects=0)

    assert soak.bounded([sample(minute) for minute in range(61)]) is (grows is None)
