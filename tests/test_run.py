"""`mlxarch run`: what is on stdout, what on stderr, and what it exits with."""

import io
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import tiny
from click import UsageError
from click.testing import CliRunner
from seeing import picture

from mlxarch.app import model, printed, run
from mlxarch.app.cli import cli
from mlxarch.app.engine import client
from mlxarch.app.engine.protocol import (
    Delta,
    Error,
    Finish,
    Generate,
    Load,
    Loading,
    Prefill,
    Ready,
    Stats,
    Stop,
    ToolCall,
    decode,
    encode,
)

READY = Ready(
    name="tiny", architecture="Tiny", parameters=1, bytes=4, context=64, device="CPU", seconds=1.0
)
STATS = Stats(
    id=1,
    prompt_tokens=12,
    cached_tokens=0,
    prefill_seconds=0.2,
    first_token_seconds=0.25,
    tokens=3,
    decode_seconds=0.1,
)


def said(text, *tokens, channel="answer"):
    return Delta(
        id=1, channel=channel, text=text, tokens=list(tokens), seconds=[0.05] * len(tokens)
    )


SWITCHES = [
    {"name": "deep", "values": [True, False]},
    {"name": "effort", "values": ["low", "high"]},
]
THINKS = replace(READY, switches=SWITCHES, thinks=True)


def script(*deltas, reason="stop", ready=THINKS):
    """Events of an answer."""
    loading = Loading(path="x", done=2, total=4)
    prefill = Prefill(id=1, done=6, total=12, cached=0)
    return [loading, ready, prefill, *deltas, STATS, Finish(id=1, reason=reason)]


class Script:
    """Speaks the protocol from a list; an entry that can be called is called on its turn."""

    def __init__(self, events, exit_code=None, log=""):
        self.events, self.sent, self.closed = iter(events), [], False
        self.exit_code, self.log = exit_code, log

    def send(self, command):
        self.sent.append(command)

    def receive(self):
        while callable(event := next(self.events, None)):
            event()
        return event

    def log_tail(self):
        return self.log

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.closed = True


def invoke(monkeypatch, engine, *arguments, stdin=""):
    """`mlxarch run` against a script."""
    monkeypatch.setattr(client.Engine, "start", lambda: engine)
    return CliRunner().invoke(cli, ["run", ".", *arguments], input=stdin, standalone_mode=False)


@pytest.mark.usefixtures("foreground")
def test_only_the_answer_is_on_stdout(monkeypatch):
    deltas = [said("Mm", 1, channel="thinking"), said("Hi", 2), said(" you.\n\n", 3)]
    engine = Script(script(*deltas))
    result = invoke(monkeypatch, engine, "-p", "hello")
    assert (result.stdout, result.stderr) == ("Hi you.\n", "")
    assert engine.closed
    load, request = engine.sent
    assert load == Load(path=".")
    assert request == Generate(id=1, messages=[{"role": "user", "content": "hello"}])


def test_bytes_that_are_no_utf_8_reach_the_engine_as_what_stands_for_them(monkeypatch, tmp_path):
    file = tmp_path / os.fsdecode(b"caf\xe9")
    file.write_text("x")
    engine = Script(script())
    said = ("-p", "a\udce9", "--system", "b\udce9", "--stop", "c\udce9", "-f", str(file))
    assert invoke(monkeypatch, engine, *said).exit_code == 0
    _, request = engine.sent
    assert request.stop == ["c\ufffd"]
    assert [message["content"][:2] for message in request.messages] == ["b\ufffd", "a\ufffd"]
    encode(request)
    request.messages[1]["content"].encode()


def test_names_of_files_that_are_no_utf_8_come_through_whole():
    load = Load(path="caf\udce9")
    assert decode(encode(load)) == load


def test_options_reach_the_engine(monkeypatch):
    engine = Script(script())
    options = ["--system", "S", "--max-tokens", "5", "--temp", "0.5", "--top-p", "0.9"]
    options += ["--kv-bits", "4", "--memory", "2GB", "--wired", "1GB"]
    options += ["--top-k", "20", "--min-p", "0.1"]
    options += ["--repetition-penalty", "1.1", "--stop", "###", "--stop", "End"]
    options += ["--thinking-tokens", "0", "--switch", "deep=true", "--switch", "effort=low"]
    invoke(monkeypatch, engine, "-p", "q", "--seed", "7", "--draft", "lookup", *options)
    assert engine.sent[0] == Load(
        path=".", draft="lookup", kv_bits=4, memory=2_000_000_000, wired=1_000_000_000
    )
    assert engine.sent[1] == Generate(
        id=1,
        messages=[{"role": "system", "content": "S"}, {"role": "user", "content": "q"}],
        max_tokens=5,
        temperature=0.5,
        top_p=0.9,
        top_k=20,
        min_p=0.1,
        repetition_penalty=1.1,
        seed=7,
        stop=["###", "End"],
        switches={"deep": True, "effort": "low"},
        thinking_tokens=0,
    )


def test_log_probabilities_stand_beside_their_tokens(monkeypatch):
    delta = replace(said("Hi", 2), logprobs=[-0.25])
    engine = Script(script(delta, said("", 3)))
    result = invoke(monkeypatch, engine, "-p", "q", "--json", "--logprobs")
    first, second, _ = map(json.loads, result.stdout.splitlines())
    assert (first["token"], first["logprob"]) == (2, -0.25)
    assert "logprob" not in second
    assert engine.sent[1].logprobs
    refused = invoke(monkeypatch, engine, "-p", "q", "--logprobs")
    assert isinstance(refused.exception, UsageError)
    assert "--json" in refused.exception.message


@pytest.mark.parametrize("bits", ["3", "16", "eight"])
def test_a_cache_of_other_bits_is_a_usage_error(monkeypatch, bits):
    result = invoke(monkeypatch, Script([]), "-p", "q", "--kv-bits", bits)
    assert result.exception.exit_code == 2
    assert f"'{bits}' is not one of '8', '4'" in result.exception.message


@pytest.mark.parametrize("lines", [[], ["--json"]])
def test_what_a_cache_keeps_as_it_is_goes_to_stderr(monkeypatch, lines):
    remark = "The cache is kept in 8 bits, except for indexer keys."
    events = [READY, said("Hi", 1), STATS, Finish(id=1, reason="stop")]
    plain = invoke(monkeypatch, Script(events), "-p", "q", *lines)
    events[0] = replace(READY, remark=remark)
    result = invoke(monkeypatch, Script(events), "-p", "q", "--kv-bits", "8", *lines)
    assert (result.stdout, result.stderr) == (plain.stdout, f"{remark}\n")
    assert plain.stderr == ""


@pytest.mark.parametrize("lines", [[], ["--json"]])
def test_why_memory_cut_an_answer_goes_to_stderr(monkeypatch, lines):
    remark = "The engine would need 3 GB."
    finish = Finish(id=1, reason="memory", remark=remark)
    result = invoke(monkeypatch, Script([READY, said("Hi", 1), STATS, finish]), "-p", "q", *lines)
    assert "Hi" in result.stdout
    assert result.stderr == f"{remark}\n"


@pytest.mark.parametrize(
    ("arguments", "stdin", "question"),
    [
        (["-p", "sum up"], "a\n\n  b\n", "sum up\n\na\n\n  b"),
        ([], "from a pipe\n", "from a pipe"),
        (["-p", "alone"], "\n", "alone"),
        (["-p", "bytes"], b"\xff", "bytes\n\n�"),
    ],
)
def test_what_is_piped_in_is_appended(monkeypatch, arguments, stdin, question):
    engine = Script(script())
    invoke(monkeypatch, engine, *arguments, stdin=stdin)
    assert engine.sent[1].messages == [{"role": "user", "content": question}]


@pytest.mark.parametrize("arguments", [[], ["-p", " "]])
def test_an_empty_prompt_is_a_usage_error(monkeypatch, arguments):
    result = invoke(monkeypatch, Script([]), *arguments)
    assert result.exception.exit_code == 2
    assert "prompt is empty" in result.exception.message


def test_files_come_after_the_prompt_and_before_what_is_piped_in(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.md").write_text("See:\n````\nx\n````\n\n")
    (tmp_path / "b.txt").write_text("caf\N{LATIN SMALL LETTER E WITH ACUTE}", encoding="utf-16")
    engine = Script(script())
    invoke(monkeypatch, engine, "-p", "compare", "-f", "a.md", "--file", "b.txt", stdin="piped\n")
    (message,) = engine.sent[1].messages
    assert message["content"] == (
        "compare\n\n"
        "File a.md:\n`````\nSee:\n````\nx\n````\n`````\n\n"
        "File b.txt:\n```\ncaf\N{LATIN SMALL LETTER E WITH ACUTE}\n```\n\n"
        "piped"
    )


def test_a_file_alone_is_a_prompt(monkeypatch, tmp_path):
    (tmp_path / "a.txt").write_text("Say hi.")
    engine = Script(script())
    invoke(monkeypatch, engine, "-f", str(tmp_path / "a.txt"))
    assert "Say hi." in engine.sent[1].messages[0]["content"]


@pytest.mark.parametrize(
    ("raw", "what"), [(b"\x89PNG\r\n", "byte 0 and what follows, 89 50"), (b"ab\0c", "byte 2 is z")]
)
def test_a_file_that_is_no_text_is_refused_in_words(monkeypatch, tmp_path, raw, what):
    (tmp_path / "picture").write_bytes(raw)
    monkeypatch.setattr(client.Engine, "start", lambda: pytest.fail("nothing is to be started"))
    result = CliRunner().invoke(cli, ["run", "-p", "q", "-f", str(tmp_path / "picture")])
    assert (result.exit_code or result.return_value, result.stdout) == (1, "")
    assert result.stderr.startswith(f"FormatError: {tmp_path / 'picture'} is no text: {what}")
    shot = tmp_path / "shot.png"
    shot.write_bytes(raw)
    result = CliRunner().invoke(cli, ["run", "an/eye", "-p", "q", "-f", str(shot)])
    assert "shot.png cannot be shown: it is no PNG" in result.stderr
    gone = CliRunner().invoke(cli, ["run", "-p", "q", "-f", str(tmp_path)])
    assert gone.exit_code == 2
    assert "is a directory" in gone.stderr


def test_a_picture_is_shown_to_a_model_that_sees(monkeypatch, tmp_path):
    (tmp_path / "a.txt").write_text("Say hi.")
    (tmp_path / "cat.png").write_bytes(picture(64, 48))
    files = [each for name in ("cat.png", "a.txt") for each in ("-f", str(tmp_path / name))]
    engine = Script(script(said("Hi.", 1), ready=replace(READY, images=True)))
    result = invoke(monkeypatch, engine, "-p", "What is it?", *files)
    assert result.stdout == "Hi.\n"
    shown, text = engine.sent[1].messages[0]["content"]
    assert shown == {"type": "image", "path": str(tmp_path / "cat.png")}
    assert text["text"] == f"What is it?\n\nFile {tmp_path}/a.txt:\n```\nSay hi.\n```"


def test_a_picture_is_not_shown_to_one_that_does_not(monkeypatch, tmp_path):
    (tmp_path / "cat.png").write_bytes(picture(64, 48))
    blind = replace(READY, blind="tiny cannot see: its checkpoint has no vision tower.")
    engine = Script(script(said("Hi.", 1), ready=blind))
    result = invoke(monkeypatch, engine, "-f", str(tmp_path / "cat.png"), "-p", "What?")
    assert result.return_value == 1
    assert "cat.png is a picture. tiny cannot see: its checkpoint has no" in result.stderr
    assert [type(command) for command in engine.sent] == [Load]


THOUGHT = [
    said("\nLet me", 1, channel="thinking"),
    said(" see.\n", 2, channel="thinking"),
    said("", 3, channel="thinking"),
    said("Hi", 4),
    said(" you.\n\n", 5),
]


@pytest.mark.parametrize(
    ("think", "shown"),
    [
        ("hide", "Hi you.\n"),
        ("show", "<think>\nLet me see.\n</think>\n\nHi you.\n"),
        ("only", "Let me see.\n"),
    ],
)
def test_thoughts_are_hidden_shown_or_alone(monkeypatch, think, shown):
    result = invoke(monkeypatch, Script(script(*THOUGHT)), "-p", "q", "--think", think)
    assert (result.stdout, result.stderr) == (shown, "")


def test_thoughts_that_were_cut_short_are_still_set_apart(monkeypatch):
    events = script(*THOUGHT[:1], reason="length")
    result = invoke(monkeypatch, Script(events), "-p", "q", "--think", "show")
    assert result.stdout == "<think>\nLet me\n</think>\n"


def test_an_answer_without_thoughts_has_no_lines_for_them(monkeypatch):
    events = script(said("", 1, channel="thinking"), said("Hi", 2))
    result = invoke(monkeypatch, Script(events), "-p", "q", "--think", "show")
    assert result.stdout == "Hi\n"


def test_lines_of_json_leave_out_a_channel_if_told_to(monkeypatch):
    for think, tokens in (("hide", [4, 5]), ("only", [1, 2, 3]), ("show", [1, 2, 3, 4, 5])):
        engine = Script(script(*THOUGHT))
        result = invoke(monkeypatch, engine, "-p", "q", "--json", "--think", think)
        *lines, finish = map(json.loads, result.stdout.splitlines())
        assert [line["token"] for line in lines] == tokens
        assert finish["type"] == "finish"


@pytest.mark.parametrize("lines", [[], ["--json"]])
def test_only_thoughts_of_a_model_that_has_none_is_a_usage_error(monkeypatch, lines):
    engine = Script(script(ready=READY))
    result = invoke(monkeypatch, engine, "-p", "q", "--think", "only", *lines)
    assert result.exception.exit_code == 2
    assert "tiny does not think" in result.exception.message
    assert len(engine.sent) == 1


def test_a_call_of_a_tool_is_shown(monkeypatch):
    call = ToolCall(id=1, name="look", arguments='{"at": "x"}')
    result = invoke(monkeypatch, Script(script(said("I look.", 1), call)), "-p", "q")
    wanted = '{"name": "look", "arguments": "{\\"at\\": \\"x\\"}"}'
    assert result.stdout == f"I look.\n<tool_call>\n{wanted}\n</tool_call>\n"
    result = invoke(monkeypatch, Script(script(call)), "-p", "q", "--json")
    line = json.loads(result.stdout.splitlines()[0])
    assert line == {"type": "tool_call", "name": "look", "arguments": '{"at": "x"}'}


@pytest.mark.parametrize(
    ("switch", "words"),
    [
        ("depth=1", "tiny has no switch 'depth'; there is deep: true or false; effort: low or hi"),
        ("effort=huge", '--switch effort of tiny is low or high; found is "huge".'),
        ("effort", "wanted is NAME=VALUE"),
    ],
)
def test_a_switch_that_the_template_does_not_have_is_a_usage_error(monkeypatch, switch, words):
    engine = Script(script())
    result = invoke(monkeypatch, engine, "-p", "q", "--switch", switch)
    assert result.exception.exit_code == 2
    assert words in result.exception.message
    assert not any(isinstance(command, Generate) for command in engine.sent)


def test_a_stop_text_of_nothing_is_a_usage_error(monkeypatch):
    result = invoke(monkeypatch, Script([]), "-p", "q", "--stop", "")
    assert result.exception.exit_code == 2
    assert "would end every answer" in result.exception.message


@pytest.mark.parametrize("option", ["--temp", "--top-p", "--min-p", "--repetition-penalty"])
@pytest.mark.parametrize("number", ["nan", "inf"])
def test_what_nobody_can_compute_with_is_a_usage_error(monkeypatch, option, number):
    result = invoke(monkeypatch, Script([]), "-p", "q", option, number)
    assert result.exception.exit_code == 2
    assert "number" in result.exception.message or "range" in result.exception.message


@pytest.fixture
def schema(tmp_path):
    """A file with a schema, to be written to."""
    file = tmp_path / "schema.json"
    file.write_text('{"type": "integer"}')
    return file


def test_a_schema_reaches_the_engine_and_lines_stay_what_they_are(monkeypatch, schema):
    engine = Script(script(said("4", 9)))
    result = invoke(monkeypatch, engine, "-p", "q", "--schema", str(schema))
    assert (result.stdout, result.exception) == ("4\n", None)
    assert engine.sent[1].schema == {"type": "integer"}
    engine = Script(script(said("4", 9)))
    result = invoke(monkeypatch, engine, "-p", "q", "--json", "--schema", str(schema))
    assert json.loads(result.stdout.splitlines()[0])["text"] == "4"


def test_a_stop_text_could_cut_json_short(schema):
    arguments = ["run", ".", "-p", "q", "--schema", str(schema), "--stop", "}"]
    result = CliRunner().invoke(cli, arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--stop could cut the JSON of --schema short" in result.stderr


def test_json_that_was_cut_short_is_an_error(monkeypatch, schema):
    engine = Script(script(said("4", 9), reason="length"))
    result = invoke(monkeypatch, engine, "-p", "q", "--schema", str(schema))
    assert (result.stdout, result.return_value) == ("4\n", 1)
    assert "The JSON is not complete: cut at --max-tokens" in result.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON: Expecting property name"),
        ("\xff", "is not JSON: "),
        pytest.param("[" * 100_000, "is nested too deeply", id="deep"),
        ("[1]", "holds [1]; a schema is a JSON object"),
        ('{"type": "text"}', "The JSON schema cannot be followed: Invalid type: text."),
    ],
)
def test_a_schema_that_is_none_is_refused_before_anything_is_loaded(
    monkeypatch, schema, text, words
):
    schema.write_text(text, encoding="latin-1")
    monkeypatch.setattr(client.Engine, "start", lambda: pytest.fail("nothing is to be started"))
    result = CliRunner().invoke(
        cli, ["run", ".", "-p", "q", "--schema", str(schema)], standalone_mode=False
    )
    assert (result.return_value, result.stdout) == (1, "")
    assert words in result.stderr


def test_json_is_a_line_a_token_and_the_figures(monkeypatch):
    deltas = [said("Mm", 1, channel="thinking"), said("", 2), said("é", 3)]
    engine = Script(script(*deltas, reason="length"))
    lines = [
        json.loads(x)
        for x in invoke(monkeypatch, engine, "--json", "-p", "q").stdout.split("\n")[:-1]
    ]
    assert engine.sent[1].interval == 0
    assert lines[:3] == [
        {"token": 1, "text": "Mm", "channel": "thinking", "seconds": 0.05},
        {"token": 2, "text": "", "channel": "answer", "seconds": 0.05},
        {"token": 3, "text": "é", "channel": "answer", "seconds": 0.05},
    ]
    figures = {"prompt_tokens": 12, "cached_tokens": 0, "prefill_seconds": 0.2}
    figures |= {"first_token_seconds": 0.25, "tokens": 3, "decode_seconds": 0.1}
    figures |= {"guessed_tokens": 0, "right_tokens": 0}
    assert lines[3:] == [{"type": "finish", "reason": "length", **figures}]


@pytest.mark.parametrize(
    ("kind", "code", "line"),
    [
        ("ConfigError", 3, "ConfigError: Too bad."),
        ("DoesNotFit", 4, "DoesNotFit: Too bad."),
        ("FormatError", 1, "FormatError: Too bad."),
        ("HubError", 6, "HubError: Too bad."),
        ("KeyError", 1, "MlxarchError: KeyError: Too bad."),
        ("exit_code", 1, "MlxarchError: exit_code: Too bad."),
    ],
)
def test_the_engines_errors_keep_their_exit_codes(monkeypatch, kind, code, line):
    events = [Error(id=None, kind=kind, message="Too bad.")]
    result = invoke(monkeypatch, Script(events), "-p", "q")
    assert (result.return_value, result.stdout, result.stderr) == (code, "", f"{line}\n")


def test_an_engine_that_dies_is_an_error_with_its_last_words(monkeypatch):
    engine = Script([READY, said("Hal", 1)], exit_code=-9, log="one\nout of memory")
    result = invoke(monkeypatch, engine, "-p", "q")
    assert (result.return_value, result.stdout) == (1, "Hal\n")
    assert result.stderr == "MlxarchError: The engine died with exit code -9: out of memory.\n"


@pytest.mark.usefixtures("foreground")
def test_ctrl_c_stops_the_answer_and_keeps_it(monkeypatch):
    interrupt = [lambda: os.kill(os.getpid(), signal.SIGINT)]
    engine = Script([READY, said("Ha", 1), *interrupt, STATS, Finish(id=1, reason="cancelled")])
    result = invoke(monkeypatch, engine, "-p", "q")
    assert (result.return_value, result.stdout) == (130, "Ha\n")
    assert engine.sent[2:] == [Stop(id=1)]


@pytest.mark.usefixtures("foreground")
@pytest.mark.parametrize("ready", [[], [READY, lambda: os.kill(os.getpid(), signal.SIGINT)]])
def test_ctrl_c_while_it_loads_or_twice_ends_at_once(monkeypatch, ready):
    engine = Script([*ready, lambda: os.kill(os.getpid(), signal.SIGINT), *script()])
    result = invoke(monkeypatch, engine, "-p", "q")
    assert type(result.exception).__name__ == "Abort"
    assert engine.closed


class Terminal(io.StringIO):
    """A terminal that both stdout and stderr write to."""

    def isatty(self):
        return True

    def states(self):
        """What its lines held, one after the other: a status is replaced."""
        return [line.split("\r\x1b[K") for line in self.getvalue().split("\n")]


@pytest.fixture(autouse=True)
def term(monkeypatch):
    """What the terminal obeys is known, wherever the tests run."""
    monkeypatch.setenv("TERM", "xterm-256color")


def watched(*deltas, **options):
    """What a person sees of an answer."""
    terminal = Terminal()
    engine, request = Script(script(*deltas, **options)), Generate(id=1, messages=[])
    run.ask(engine, None, request, printed.Text(terminal, terminal))
    return terminal.states()


def test_a_person_sees_progress_the_answer_and_figures():
    deltas = [said("Mm", 1, channel="thinking"), said("Hi\n", 2), said("you", 3)]
    first, *more = watched(*deltas, reason="length")
    progress = ["Starting", "Loading, 50%", "Reading the prompt, 6 of 12 tokens"]
    assert first == ["", *progress, "Thinking, 1 tokens", "Hi"]
    figures = "3 tokens, 20.0 tokens/s, first token after 0.25 s, cut at --max-tokens"
    assert more == [["you"], [figures], [""]]


def test_a_dumb_terminal_gets_no_more_than_words(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    deltas = [said("Mm", 1, channel="thinking"), said("Hi", 2)]
    figures = "3 tokens, 20.0 tokens/s, first token after 0.25 s"
    assert watched(*deltas) == [["Hi"], [figures], [""]]


def test_what_a_terminal_would_obey_is_handed_on_to_pipes_only(monkeypatch):
    escape = said("a\x1b[2Jb", 1)
    assert watched(escape)[0][-1] == "a\N{SYMBOL FOR ESCAPE}[2Jb"
    result = invoke(monkeypatch, Script(script(escape)), "-p", "q")
    assert result.stdout == "a\x1b[2Jb\n"


def test_no_status_wipes_an_answer_that_has_begun():
    late = [said("Hi", 1), said("hm", 2, channel="thinking"), said(" you", 3)]
    assert watched(*late)[0][-1] == "Hi you"


def test_an_answer_without_text_leaves_no_status_behind():
    assert watched(said("Mm", 1, channel="thinking"), reason="cancelled")[0][-1] == ""


def test_the_guide_is_the_model_without_a_name(monkeypatch, tmp_path):
    monkeypatch.setattr("mlxarch.app.guide.PATH", tmp_path)
    assert model.resolve(None) == tmp_path
    assert model.name(tmp_path) == "mlxarch guide"
    assert model.resolve(str(tmp_path)) == tmp_path


def test_names_of_models(tmp_path):
    snapshot = tmp_path / "models--org--the-name" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    assert model.name(snapshot) == "org/the-name"
    assert model.name(tmp_path / "models--org--the-name") == "models--org--the-name"


def test_help_says_what_the_lines_are():
    text = CliRunner().invoke(cli, ["run", "--help"]).output
    for word in ['"token"', '"channel"', '"seconds"', '"finish"', "130"]:
        assert word in text


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    # So long an answer that it fills any pipe.
    return tiny.save(tmp_path_factory.mktemp("tiny") / "llama", max_position_embeddings=40_000)


COMMAND = [sys.executable, "-m", "mlxarch.app", "run"]


@pytest.mark.slow
def test_from_pipe_to_pipe(folder, tmp_path):
    """The real thing, in a folder with a package of the same name."""
    (tmp_path / "mlxarch").mkdir()
    (tmp_path / "mlxarch" / "__init__.py").write_text("raise SystemExit('the wrong one')")
    command = [sys.executable, "-P", *COMMAND[1:], folder, "-p", "hello", "--json"]
    done = subprocess.run(
        [*command, "--max-tokens", "6"],
        input=b"piped\n",
        capture_output=True,
        cwd=tmp_path,
        check=True,
    )
    assert done.stderr == b""
    *tokens, finish = [json.loads(line) for line in done.stdout.splitlines()]
    assert finish["reason"] == "length"
    assert finish["tokens"] == len(tokens) == 6
    assert finish["prompt_tokens"] == len("__user_hello__piped__") + len("_assistant_")
    assert all(line["seconds"] > 0 for line in tokens)
    assert sum(line["seconds"] for line in tokens[1:]) == pytest.approx(finish["decode_seconds"])


@pytest.mark.slow
def test_a_reader_that_leaves_ends_it_quietly(folder):
    process = subprocess.Popen(
        [*COMMAND, folder, "-p", "hello", "--json"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stdout.readline().startswith(b'{"token"')
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.slow
def test_ctrl_c_in_a_terminal(folder):
    """It reaches the engine too, being of the same group; the answer ends all the same."""
    process = subprocess.Popen(
        [*COMMAND, folder, "-p", "hello", "--json"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        process_group=0,
    )
    with process:
        process.stdout.readline()
        os.killpg(process.pid, signal.SIGINT)
        last = process.stdout.read().splitlines()[-1]
        assert process.stderr.read() == b""
    assert json.loads(last)["reason"] == "cancelled"
    assert process.returncode == 130
