"""Calls of tools, as models write them and mlx-lm reads them, told apart from the answer."""

import json
from typing import ClassVar

import pytest
import tiny
from test_worker import HELLO, Desk, ask, only, text, tokens

from mlxarch.app.engine.protocol import Delta, Finish, Load, Stats, ToolCall
from mlxarch.generate import Answer, Token
from mlxarch.tokenizer import Tokenizer

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Adds.",
            "parameters": {
                "type": "object",
                "properties": {"a": {"type": "integer"}, "note": {"type": "string"}},
            },
        },
    }
]
# What a template says of a family's calls, and two calls in that form.
FAMILIES = {
    "json": (
        "<tool_call>{{ tool_call.name }}",
        '<tool_call>\n{"name": "add", "arguments": {"a": 12, "note": "é"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
    ),
    "json of another spelling": (
        "<tool_call>{{ call.name }}",
        '<tool_call>{"name": "add", "arguments": {"a": 12, "note": "é"}}</tool_call>'
        '<tool_call>{"name": "now"}</tool_call>',
    ),
    "qwen3.5, qwen3-coder-next and step 3.5": (
        "<tool_call>\n<function=",
        "<tool_call>\n<function=add>\n<parameter=a>\n12\n</parameter>\n<parameter=note>\né\n"
        "</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n"
        "</tool_call>",
    ),
    "glm-5": (
        "<tool_call>{function-name}<arg_key>",
        "<tool_call>add<arg_key>a</arg_key><arg_value>12</arg_value><arg_key>note</arg_key>"
        "<arg_value>é</arg_value></tool_call><tool_call>now</tool_call>",
    ),
    "kimi k2.5": (
        "<|tool_calls_section_begin|>",
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.add:0"
        '<|tool_call_argument_begin|>{"a": 12, "note": "é"}<|tool_call_end|><|tool_call_begin|>'
        "functions.now:1<|tool_call_argument_begin|>{}<|tool_call_end|>"
        "<|tool_calls_section_end|>",
    ),
    "minimax m2.5": (
        "<minimax:tool_call>",
        '<minimax:tool_call>\n<invoke name="add">\n<parameter name="a">12</parameter>\n'
        '<parameter name="note">é</parameter>\n</invoke>\n<invoke name="now">\n</invoke>\n'
        "</minimax:tool_call>",
    ),
}


class Scripted(Answer):
    """Says what it is told to."""

    script: ClassVar[list[int]] = []

    def __iter__(self):
        self.reason = "stop"
        yield from (Token(token, 0.01) for token in self.script)


def desk(tmp_path, monkeypatch, says, mention=FAMILIES["json"][0]):
    """A worker whose model says a text, and whose template speaks of calls in some form."""
    template = "{% if tools %}" + json.dumps(mention)[1:-1].join(["{{ '", "' }}"])
    template += "{{ tools | tojson }}{% endif %}" + tiny.CHATML
    folder = tiny.save(tmp_path / "llama", template=template)
    monkeypatch.setattr(Scripted, "script", Tokenizer(folder)._encode(says))
    monkeypatch.setattr("mlxarch.app.engine.answers.Answer", Scripted)
    desk = Desk()
    *_, ready, _ = desk(Load(path=str(folder)))
    assert ready.tools
    return desk


def calls(events):
    return [(e.name, e.arguments) for e in events if isinstance(e, ToolCall)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("interval", [0.0, 9.0])
def test_calls_are_read_and_are_not_the_answer_s_text(tmp_path, monkeypatch, family, interval):
    mention, written = FAMILIES[family]
    worker = desk(tmp_path, monkeypatch, f"I add.\n{written}\n\nDone <b>.", mention)
    events = worker(ask(tools=TOOLS, interval=interval))
    (add, one), (now, none) = calls(events)
    assert (add, json.loads(one)) == ("add", {"a": 12, "note": "é"})
    assert (now, json.loads(none)) == ("now", {})
    assert text(events) == "I add.\nDone <b>."
    # Every token counts, and the answer's parts come in their order.
    assert tokens(events) == Scripted.script
    assert only(events, Stats).tokens == len(Scripted.script)
    first = next(i for i, event in enumerate(events) if isinstance(event, ToolCall))
    assert text(events[:first]) == "I add.\n"
    assert only(events, Finish).reason == "stop"


def test_a_model_that_was_given_none_may_call_all_the_same(tmp_path, monkeypatch):
    events = desk(tmp_path, monkeypatch, FAMILIES["json"][1])(ask())
    assert [name for name, _ in calls(events)] == ["add", "now"]
    assert text(events) == ""


@pytest.mark.parametrize(
    "written", ['{"name": add}', '["x"]', "3", '{"arguments": {}}', '{"name": "add", "argum']
)
@pytest.mark.parametrize("end", ["</tool_call>", ""])
def test_a_call_that_cannot_be_read_is_shown_as_it_is(tmp_path, monkeypatch, written, end):
    events = desk(tmp_path, monkeypatch, f"So: <tool_call>\n{written}\n{end}")(ask())
    assert calls(events) == [("", written)]
    assert text(events) == "So: "


def test_calls_within_thinking_are_thoughts(tmp_path, monkeypatch):
    says = '<think>maybe <tool_call>{"name": "x"}</tool_call></think>No.'
    events = desk(tmp_path, monkeypatch, says)(ask())
    assert calls(events) == []
    thoughts = [e.text for e in events if isinstance(e, Delta) and e.channel == "thinking"]
    assert "".join(thoughts) == 'maybe <tool_call>{"name": "x"}</tool_call>'


def test_the_template_is_given_the_tools(tmp_path, monkeypatch):
    worker = desk(tmp_path, monkeypatch, "ok")
    without, given = worker(ask(HELLO)), worker(ask(HELLO, tools=TOOLS))
    more = only(given, Stats).prompt_tokens - only(without, Stats).prompt_tokens
    assert more > len(json.dumps(TOOLS))
