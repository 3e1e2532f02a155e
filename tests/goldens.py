"""What tests/golden/make.py wrote, as tests read it; every folder under data/ is one."""

import json
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

DATA = Path(__file__).parent / "golden" / "data"
NAMES = sorted(folder.name for folder in DATA.iterdir() if folder.is_dir())
SPELLINGS = {"tf4": "config.json", "tf5": "config_tf5.json"}


def _has_heads(name: str) -> bool:
    with np.load(DATA / name / "golden.npz") as file:
        return "mtp.0.hidden" in file.files


# Those of which the reference says what heads for further tokens make.
HEADED = [name for name in NAMES if _has_heads(name)]


@dataclass(frozen=True)
class Golden:
    """A tiny checkpoint, and what the reference implementation says of it."""

    name: str

    @property
    def folder(self) -> Path:
        return DATA / self.name

    def config(self, spelling: str = "tf4") -> dict[str, Any]:
        return json.loads((self.folder / SPELLINGS[spelling]).read_bytes())

    def spelled(self, spelling: str, where: Path) -> Path:
        """A folder whose config.json is in transformers 4's or 5's spelling."""
        for file in self.folder.glob("model*"):
            shutil.copy(file, where / file.name)
        shutil.copy(self.folder / SPELLINGS[spelling], where / "config.json")
        return where

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        with np.load(self.folder / "golden.npz") as file:
            return dict(file)

    def __getitem__(self, key: str) -> np.ndarray:
        return self.arrays[key]

    @cached_property
    def meta(self) -> dict[str, Any]:
        return json.loads(str(self.arrays["meta"]))
