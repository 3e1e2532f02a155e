"""What a chat template lets people choose: variables of it that no conversation fills.

Their values are read off the template, which is parsed and not run for that: what a variable is
compared with, what it is replaced by where it is missing, whether it is taken for true or false.
Rendering then tells which values make a difference, and which is the template's own.
"""

from collections.abc import Callable, Iterator
from typing import Any

from jinja2 import meta, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

# What transformers gives to every template, besides special tokens.
_GIVEN = {
    *("messages", "tools", "documents", "add_generation_prompt", "continue_final_message"),
    *("raise_exception", "strftime_now"),
}
_DEFAULT = ("default", "d")
_LOGIC = (nodes.If, nodes.CondExpr, nodes.Not, nodes.And, nodes.Or, nodes.Keyword)


class _Generation(Extension):
    """The block that marks what an assistant says."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """What is within."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def find(template: str, given: set[str], render: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """Each variable that a person may set, and its values, the template's own first.

    That is None where it is none of those which the template names.

    Args:
        given: Further variables that are no choice: the special tokens.
        render: Renders example conversations with some variables set: something to compare.

    Raises: jinja2.TemplateError if the template cannot be parsed.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    # Looking for variables evaluates parts of what is looked at.
    unfilled = meta.find_undeclared_variables(environment.parse(template))
    tree = environment.parse(template)
    found, plain = {}, render({})
    for name in sorted(unfilled - _GIVEN - given):
        told = [(value, render({name: value})) for value in _Uses(tree, name).values()]
        own = next((value for value, text in told if text == plain), None)
        values, texts = [own], [plain]
        for value, text in told:
            if text is not None and text not in texts:
                values.append(value)
                texts.append(text)
        if len(values) > 1:
            found[name] = values
    return found


class _Uses:
    """How a template uses one of its variables, and the names it gives to its value."""

    def __init__(self, tree: nodes.Template, name: str):
        self._names = {name}
        self._constants: list[Any] = []
        self._truth = self._other = False
        self._above: dict[int, nodes.Node] = {}
        every = list(_below(tree, self._above))
        while found := {each for node in every if (each := self._renamed(node))} - self._names:
            self._names |= found
        for node in every:
            self._constants += self._compared(node)
            if isinstance(node, nodes.Name) and node.name in self._names and node.ctx == "load":
                self._use(node)

    def values(self) -> list[Any]:
        """Values that the template tells apart, as they occur; none if it takes any."""
        known = list(dict.fromkeys(self._constants))
        texts = [value for value in known if not isinstance(value, bool) and value is not None]
        if any(isinstance(value, bool) for value in known) or (
            self._truth and not texts and not self._other
        ):
            return [*texts, True, False]
        return texts

    def _is(self, node: nodes.Node | None) -> bool:
        """Whether a node is the variable, perhaps with a filter or another value in its absence."""
        match node:
            case nodes.Name():
                return node.name in self._names
            case nodes.Filter():
                return self._is(node.node)
            case nodes.CondExpr():
                return self._is(node.expr1) or self._is(node.expr2)
            case nodes.Or():
                return self._is(node.left)
        return False

    def _renamed(self, node: nodes.Node) -> str | None:
        """The name that an assignment gives to the variable's value."""
        if isinstance(node, nodes.Assign) and isinstance(node.target, nodes.Name):
            return node.target.name if self._is(node.node) else None
        return None

    def _compared(self, node: nodes.Node) -> Iterator[Any]:
        """Constants that a node holds against the variable."""
        match node:
            case nodes.Compare():
                sides = [node.expr, *(operand.expr for operand in node.ops)]
                if any(self._is(side) for side in sides):
                    for side in sides:
                        yield from _constants(side)
            case nodes.Test() if self._is(node.node):
                if node.name in ("true", "false", "boolean"):
                    yield True
                for argument in node.args:
                    yield from _constants(argument)
            case nodes.Filter() if node.name in _DEFAULT and self._is(node.node):
                yield from _constants(node.args[0] if node.args else None)
            case nodes.CondExpr():
                branches = [*_constants(node.expr1), *_constants(node.expr2)]
                held = {
                    c for each in node.test.find_all(nodes.Compare) for c in self._compared(each)
                }
                if self._is(node) or held & set(branches):
                    yield from branches
            case nodes.Or() if self._is(node.left):
                yield from _constants(node.right)
            case nodes.Assign() if self._is(node.target):
                yield from _constants(node.node)
            case nodes.Getitem() if self._is(node.arg) and isinstance(node.node, nodes.Dict):
                for pair in node.node.items:
                    yield from _constants(pair.key)

    def _use(self, node: nodes.Node) -> None:
        """Account for one occurrence."""
        above = self._above[id(node)]
        while self._is(above):
            node, above = above, self._above[id(above)]
        if isinstance(above, nodes.If | nodes.CondExpr) and above.test is not node:
            self._other = True
        elif isinstance(above, _LOGIC):
            self._truth = True
        elif not isinstance(above, nodes.Test | nodes.Compare | nodes.Operand | nodes.Assign):
            self._other = True


def _below(node: nodes.Node, above: dict[int, nodes.Node]) -> Iterator[nodes.Node]:
    """All nodes within one; what each of them is directly within is noted."""
    for child in node.iter_child_nodes():
        above[id(child)] = node
        yield child
        yield from _below(child, above)


def _constants(node: nodes.Node | None) -> Iterator[Any]:
    """A constant, or those of a list."""
    if isinstance(node, nodes.Const) and isinstance(node.value, str | int | None):
        yield node.value
    elif isinstance(node, nodes.List | nodes.Tuple):
        for item in node.items:
            yield from _constants(item)
