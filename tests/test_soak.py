"""The hour-long soak itself is no test; that it can be run is."""

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
