"""What a word on the command line may stand for."""

import json
import os
import re
from math import isfinite
from typing import Any

import click

from mlxarch.quantize.recipes import Override, Recipe, candidate


class Bits(click.ParamType):
    """Bits for what a pattern finds: lm_head=8, layers.0=6, keep."""

    name = "override"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Override:
        """The override that a word stands for."""
        try:
            return Override.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Candidate(click.ParamType):
    """A recipe, a format or both: mixed, 4g32, mixed:mxfp4."""

    name = "candidate"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Recipe:
        """The recipe that a word stands for."""
        try:
            return candidate(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Size(click.ParamType):
    """A number of bytes: 5GB, 800MB, 1.5 GiB, 1000000."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The bytes that a text stands for."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?))?b?", str(value).lower())
        if found is None:
            self.fail(f"{value!r} is no size; wanted is one such as 5GB or 4GiB.", param, ctx)
        number, unit, binary = found.groups()
        power = " kmgt".index(unit or " ")
        if (count := int(float(number) * (1024 if binary else 1000) ** power)) < 1:
            self.fail(f"{value!r} is nothing; wanted is a size such as 5GB.", param, ctx)
        return count


class Text(click.ParamType):
    """Words for a model; bytes that are no UTF-8 become the character that stands for them."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The words, without halves of characters."""
        try:
            value.encode()
        except UnicodeEncodeError:
            return os.fsencode(value).decode(errors="replace")
        return value


class Number(click.FloatRange):
    """A number within a range; neither infinity nor what is no number at all."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number that a text stands for."""
        if not isfinite(number := super().convert(value, param, ctx)):
            self.fail(f"{value!r} is nothing to compute with; give a number.", param, ctx)
        return number


class Switch(click.ParamType):
    """A variable of a chat template: enable_thinking=false, reasoning_effort=high."""

    name = "switch"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Any]:
        """The name, and its value as JSON has it, else as text."""
        name, equals, text = value.partition("=")
        if not (name and equals and text):
            self.fail(f"{value!r} has no name and value; wanted is NAME=VALUE.", param, ctx)
        try:
            return name, json.loads(text)
        except ValueError:
            return name, {"True": True, "False": False}.get(text, text)


class Tokens(click.ParamType):
    """A number of tokens: 8k, 32k, 1m, 131072; a k is 1,024, an m 1,024 k."""

    name = "tokens"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The tokens that a text stands for."""
        found = re.fullmatch(r"(\d+)\s*([km]?)", str(value).lower())
        if found is None or not (count := int(found[1]) * 1024 ** " km".index(found[2] or " ")):
            self.fail(f"{value!r} is no number of tokens; wanted is one such as 8k.", param, ctx)
        return count
