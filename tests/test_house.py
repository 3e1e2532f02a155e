"""The house: who may import whom, what stays lazy, and what the wheel ships."""

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {
    "app": "mlxarch.app",
    "convert": "mlxarch.convert",
    "quantize": "mlxarch.quantize",
    "mlxarch": "mlxarch",
}
# Each part and the parts it may know. The arrows of the house go one way.
MAY_IMPORT = {
    "mlxarch": {"mlxarch"},
    "quantize": {"quantize", "mlxarch"},
    "convert": {"convert", "quantize", "mlxarch"},
    "app": {"app", "convert", "quantize", "mlxarch"},
}
# Packages that only one place may import: the terminal is the app's, mlx-lm is compat's.
ONLY = {
    "textual": "app/",
    "click": "app/",
    "rich": "app/",
    "huggingface_hub": "convert/",
    "mlx_lm": "mlxarch/compat.py",
    "transformers": "mlxarch/compat.py",
    "PIL": "mlxarch/vision/pixels.py",
    "torch": "app/guide/training/",
}


def sources():
    """Every file of the four folders, with its dotted name."""
    for folder, package in FOLDERS.items():
        for file in sorted((ROOT / folder).rglob("*.py")):
            inner = file.relative_to(ROOT / folder).with_suffix("").parts
            yield file, ".".join([package, *(part for part in inner if part != "__init__")])


def imports(file, module):
    """Absolute dotted names that a file imports, wherever in the file."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], base]).rstrip(".")
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def part_of(name):
    """The part a dotted name belongs to, or None for somebody else's package."""
    for folder, package in FOLDERS.items():
        if folder != "mlxarch" and (name == package or name.startswith(package + ".")):
            return folder
    return "mlxarch" if name.split(".")[0] == "mlxarch" else None


@pytest.mark.parametrize(("file", "module"), list(sources()), ids=lambda value: str(value)[-40:])
def test_arrows_go_one_way(file, module):
    own = part_of(module)
    for name in imports(file, module):
        target = part_of(name)
        assert target is None or target in MAY_IMPORT[own], f"{own} imports {name}"
        assert name not in FOLDERS or name == "mlxarch", f"{name} is not its name once installed"
        place = ONLY.get(name.split(".")[0])
        relative = file.relative_to(ROOT).as_posix()
        assert place is None or relative.startswith(place), f"only {place} may import {name}"


def test_models_and_blocks_know_no_model():
    for file, module in sources():
        if module.startswith(("mlxarch.models.", "mlxarch.blocks.")):
            known = [name for name in imports(file, module) if "mlxarch.models" in name]
            assert not known, f"{module} imports {known}"


def test_all_that_is_said_in_passing_in_the_chat_is_said_one_way():
    # `say` makes unknown text plain and leaves no markup in it.
    calls = [
        f"{file.name}:{node.lineno}"
        for file in sorted((ROOT / "app" / "chat").glob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "notify" and file.name != "base.py"
    ]
    assert calls == []


def test_the_check_of_imports_sees_relative_and_inner_imports(tmp_path):
    file = tmp_path / "checkpoint.py"
    file.write_text("from . import backend\ndef f():\n    from ..app.cli import main\n")
    found = list(imports(file, "mlxarch.sub.checkpoint"))
    assert "mlxarch.sub.backend" in found
    assert "mlxarch.app.cli.main" in found


def run_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    ).stdout


HEAVY = {"mlx_lm", "transformers", "torch", "mlx.core", "numba", "PIL"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["convert", "--help"],
        ["show", "--help"],
        ["fit", "--help"],
        ["history", "--help"],
        ["history"],
        ["history", "some words"],
    ],
)
def test_help_is_quick_because_it_imports_nothing_heavy(arguments):
    assert imported(arguments) & {"textual", "huggingface_hub", *HEAVY} == set()


def test_the_chat_leaves_mlx_to_its_engine():
    pretence = """
from contextlib import nullcontext
from types import SimpleNamespace
from mlxarch.app.commands import chat
from mlxarch.app.chat.app import ChatApp
from mlxarch.app.engine.client import Engine
chat._drawable = lambda: True
Engine.start = lambda: nullcontext(SimpleNamespace(close=lambda: None))
ChatApp.run = lambda app, **how: None
"""
    assert "textual" in (found := imported(["chat"], pretence))
    assert found & HEAVY == set()


def imported(arguments, before=""):
    """The modules that a command imports, after some other code."""
    code = f"""
import sys
{before}
sys.argv = ["mlxarch", *{arguments!r}]
from mlxarch.app.cli import main
try:
    main()
except SystemExit as done:
    assert not done.code, done.code
print(*sys.modules)
"""
    return set(run_python(code).splitlines()[-1].split())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy so that the tree stays clean, and unpacked."""
    base = tmp_path_factory.mktemp("wheel")
    unwanted = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "tests")
    shutil.copytree(ROOT, base / "source", ignore=unwanted)
    code = "from setuptools.build_meta import build_wheel; build_wheel('..')"
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=base / "source",
        check=True,
        capture_output=True,
    )
    (file,) = base.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        archive.extractall(base / "installed")
        return base / "installed", archive.namelist()


def test_the_wheel_ships_every_source_and_nothing_else(wheel):
    _, names = wheel
    shipped = {name for name in names if name.endswith(".py")}
    wanted = {
        f"{module.replace('.', '/')}{'/__init__.py' if file.name == '__init__.py' else '.py'}"
        for file, module in sources()
        if ".guide.training" not in module
    }
    assert shipped == wanted
    assert {name.split("/")[0].split("-")[0] for name in names} == {"mlxarch"}


@pytest.mark.parametrize(
    "data",
    [
        "mlxarch/py.typed",
        "mlxarch/app/catalogue.toml",
        "mlxarch/app/chat/chat.tcss",
        "mlxarch/app/guide/model/config.json",
        "mlxarch/app/guide/model/model.safetensors",
        "mlxarch/app/guide/model/mtp.safetensors",
        "mlxarch/app/guide/model/tokenizer.json",
        "mlxarch/quantize/sample.txt",
    ],
)
def test_the_wheel_ships_the_data(wheel, data):
    _, names = wheel
    assert data in names


def test_the_wheel_runs_without_the_checkout(wheel, tmp_path):
    folder, _ = wheel
    code = "import mlxarch.app.cli as c, mlxarch.convert as v; print(c.__file__, v.__file__)"
    files = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(folder)},
    ).stdout.split()
    assert all(file.startswith(str(folder)) for file in files)
