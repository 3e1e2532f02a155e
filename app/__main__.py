"""`python -m mlxarch.app` is `mlxarch`."""

from .cli import main

main()
