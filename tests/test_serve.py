"""`mlxarch serve`, spoken to by OpenAI's own client."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from threading import Thread

import mlx.core as mx
import openai
import pytest
import tiny
import tiny_configs
import tokenizers
from click.testing import CliRunner
from jsonschema import Draft202012Validator
from tokenizers.models import BPE

from mlxarch import checkpoint, kv
from mlxarch.app.cli import cli
from mlxarch.app.serve.access import Access
from mlxarch.app.serve.generator import Generator
from mlxarch.app.serve.listener import Listener
from mlxarch.cache import Past
from mlxarch.errors import MlxarchError
from mlxarch.tokenizer import Tokenizer

FAMILIES = {
    "llama": "llama",
    "windows": "cohere2",
    "hybrid": "qwen3_next",
    "latents": "kimi_k25",
    "sparse": "glm5",
}
TEXTS = ["hello", "a much longer question about nothing at all", "x", "What is it?", "five", "6"]


class Served:
    """A server in this process, and what its model says by itself."""

    def __init__(self, folder, listener, generator):
        self.folder, self.listener, self.generator = folder, listener, generator
        self.model, self.tokenizer = checkpoint.load(folder), Tokenizer(folder)
        self.port = listener.server_port

    def client(self, key="none"):
        return openai.OpenAI(base_url=self.listener.url, api_key=key, max_retries=0)

    def alone(self, prompt, count, kv_bits=None):
        """The text of a greedy answer without a server."""
        options = {"max_tokens": count, "stop_ids": self.tokenizer.stop_ids}
        tokens, _ = tiny.answer(self.model, prompt, Past(self.model, kv_bits), **options)
        return self.tokenizer.wrapped.decode(tokens)

    def raw(self, method, path, body=None, **headers):
        """Status and JSON of a request as it is."""
        connection = HTTPConnection("127.0.0.1", self.port)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, headers)
        with connection.getresponse() as response:
            return response.status, json.loads(response.read() or b"null"), response.headers


@contextmanager
def serving(folder, kv_bits=None, **access):
    generator = Generator(folder, kv_bits)
    try:
        assert generator.loaded.wait(600)
        assert generator.failure is None
        with Listener("127.0.0.1", 0) as listener:
            arguments = (generator, "tiny", {"default_model"}, Access(**access))
            thread = Thread(target=listener.serve, args=arguments)
            thread.start()
            try:
                yield Served(folder, listener, generator)
            finally:
                listener.shutdown()
                thread.join()
    finally:
        generator.stop_and_join()


def saved(folder, name, template=tiny.CHATML, think=False, **changes):
    """A random model of a family, with a tokenizer of letters: all that it says is text."""
    if name in tiny.CONFIGS:
        tiny.save(folder, name, template, **changes)
    else:
        folder.mkdir()
        raw, tensors = tiny_configs.saved(name, vocab_size=264, **changes)
        mx.save_safetensors(str(folder / "model.safetensors"), tensors)
        (folder / "config.json").write_text(json.dumps(raw))
        tiny.save_tokenizer(folder, template)
    letters = ["\n", *map(chr, range(32, 127)), *map(chr, range(0x410, 0x410 + 160))]
    tokenizer = tokenizers.Tokenizer(BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.decoder = tokenizers.decoders.Fuse()
    thoughts = ["<think>", "</think>"] if think else []
    tokenizer.add_special_tokens(["<bos>", "<|im_start|>", "<|im_end|>", *thoughts])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = saved(tmp_path_factory.mktemp("served") / "llama", "llama")
    with serving(folder) as found:
        yield found


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    folder = saved(tmp_path_factory.mktemp("served") / request.param, FAMILIES[request.param])
    with serving(folder) as found:
        yield found


def chat(served, text, count=20, **options):
    messages = [{"role": "user", "content": text}] if isinstance(text, str) else text
    with served.client() as client:
        found = client.chat.completions.create(
            model="tiny", messages=messages, max_tokens=count, **options
        )
        return list(found) if options.get("stream") else found


def test_an_answer_is_what_the_model_says_alone(family):
    found = chat(family, TEXTS[1], 30)
    prompt = family.tokenizer.prompt([{"role": "user", "content": TEXTS[1]}]).tokens
    assert (found.choices[0].message.content or "") == family.alone(prompt, 30)
    assert (found.model, found.object) == ("tiny", "chat.completion")
    assert found.usage.prompt_tokens == len(prompt)
    assert found.usage.completion_tokens <= 30


def test_answers_at_once_are_those_one_by_one(family):
    def ask(text):
        return chat(family, text, 25).choices[0].message.content or ""

    with ThreadPoolExecutor(len(TEXTS)) as pool:
        together = list(pool.map(ask, TEXTS))
    prompts = [family.tokenizer.prompt([{"role": "user", "content": t}]).tokens for t in TEXTS]
    assert together == [family.alone(prompt, 25) for prompt in prompts]


def test_caches_are_merged_only_where_rows_may_begin_later(family):
    plain = family.folder.name in ("llama", "windows")
    assert family.generator.provider.is_batchable == plain


@pytest.fixture(scope="module", params=["llama", *tiny_configs.CONFIGS])
def packed(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed") / "model"
    saved(folder, request.param, **tiny_configs.divided(request.param))
    with serving(folder, kv_bits=8) as found:
        yield found


def test_in_few_bits_answers_are_what_the_model_says_in_as_many(packed):
    def ask(text):
        *chunks, last = chat(packed, text, 25, stream=True, stream_options={"include_usage": True})
        said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        return said, last.usage.prompt_tokens_details.cached_tokens

    prompts = [packed.tokenizer.prompt([{"role": "user", "content": t}]).tokens for t in TEXTS]
    wanted = [packed.alone(prompt, 25, kv_bits=8) for prompt in prompts]
    with ThreadPoolExecutor(len(TEXTS)) as pool:
        first, again = list(pool.map(ask, TEXTS)), list(pool.map(ask, TEXTS))
    for answers in (first, again):
        # In a batch a number may be rounded to the step beside, after which a random model says
        # something else; where rows begin matters for all but one of them.
        same = [said == alone for (said, _), alone in zip(answers, wanted, strict=True)]
        assert sum(same) >= len(TEXTS) - 2
    key = packed.generator.provider.model_key
    kept, _ = packed.generator.prompt_cache.fetch_nearest_cache(key, prompts[1])
    caches = kept or packed.generator.provider.model.make_cache()
    inner = [one for cache in caches for one in (cache, *getattr(cache, "caches", ()))]
    assert any(isinstance(one, kv.QuantizedCache) for one in inner)
    # Where caches can be cut, all but the last token was read before.
    if kept and all(cache.is_trimmable() for cache in kept):
        assert all(cached > 0 for _, cached in again)


def test_a_second_turn_reads_what_is_new(family):
    messages = [{"role": "user", "content": "Count the stars above the house for me, please."}]
    first = chat(family, messages, 30)
    messages += [
        {"role": "assistant", "content": first.choices[0].message.content or ""},
        {"role": "user", "content": "And now the trees."},
    ]
    second = chat(family, messages, 30)
    prompt = family.tokenizer.prompt(messages).tokens
    assert (second.choices[0].message.content or "") == family.alone(prompt, 30)
    again = chat(family, messages, 30)
    assert again.choices[0].message.content == second.choices[0].message.content
    if family.folder.name in ("llama", "latents", "sparse"):
        assert second.usage.prompt_tokens_details.cached_tokens > 40


def test_a_stream_is_the_answer_in_pieces(served):
    whole = chat(served, TEXTS[1], 30)
    stream = chat(served, TEXTS[1], 30, stream=True, stream_options={"include_usage": True})
    *chunks, last = stream
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
    assert len(chunks) > 5
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert last.usage.completion_tokens == whole.usage.completion_tokens
    assert last.usage.prompt_tokens_details.cached_tokens > 0


def test_a_text_is_completed(served):
    alone = served.alone(served.tokenizer.wrapped.encode("Once"), 12)
    with served.client() as client:
        found = client.completions.create(model="tiny", prompt="Once", max_tokens=12)
        assert found.choices[0].text == alone
        stream = client.completions.create(model="tiny", prompt="Once", max_tokens=12, stream=True)
        assert "".join(chunk.choices[0].text for chunk in stream) == alone


def test_the_model_is_listed(served):
    with served.client() as client:
        (only,) = client.models.list().data
        assert only.id == "tiny"
        assert client.models.retrieve("tiny").id == "tiny"
        with pytest.raises(openai.NotFoundError, match="'other' is not served here; 'tiny' is"):
            client.models.retrieve("other")


def test_another_model_is_neither_loaded_nor_fetched(served):
    for name in ("gpt-4", str(served.folder), "mlx-community/Llama-3.2-1B-4bit"):
        with served.client() as client, pytest.raises(openai.NotFoundError, match="not served"):
            client.completions.create(model=name, prompt="x")
    for key in ("adapters", "draft_model"):
        with pytest.raises(openai.BadRequestError, match=f"{key} is not supported"):
            chat(served, "x", extra_body={key: "some/where"})
    assert served.generator.provider.folder == served.folder
    assert chat(served, "x").choices


def test_a_stop_text_ends_the_answer_whatever_its_tokens_are(served):
    whole = chat(served, TEXTS[1], 30).choices[0].message.content
    stop = whole[6:9]
    wanted = whole[: whole.index(stop)]
    found = chat(served, TEXTS[1], 30, stop=[stop, "never said"])
    assert (found.choices[0].message.content or "") == wanted
    assert found.choices[0].finish_reason == "stop"
    stream = chat(served, TEXTS[1], 30, stop=stop, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == wanted
    late = chat(served, TEXTS[1], 30, stop=whole[-1] + "and more")
    assert late.choices[0].message.content == whole


def test_log_probabilities_have_their_tokens(served):
    found = chat(served, "hello", 5, logprobs=True, top_logprobs=3)
    entries = found.choices[0].logprobs.content
    assert len(entries) == 5
    for entry in entries:
        best = entry.top_logprobs[0]
        assert (best.token, best.logprob) == (entry.token, pytest.approx(entry.logprob))
        assert [top.logprob for top in entry.top_logprobs] == sorted(
            (top.logprob for top in entry.top_logprobs), reverse=True
        )
    stream = chat(served, "hello", 5, logprobs=True, top_logprobs=3, stream=True)
    packets = [chunk.choices[0].logprobs for chunk in stream]
    streamed = [entry for packet in packets if packet for entry in packet.content]
    assert [entry.token for entry in streamed] == [entry.token for entry in entries]
    wanted = [pytest.approx(entry.logprob, abs=1e-4) for entry in entries]
    assert [entry.logprob for entry in streamed] == wanted
    assert all(len(entry.top_logprobs) == 3 for entry in streamed)
    assert not any(chunk.choices[0].logprobs for chunk in chat(served, "hello", 5, stream=True))
    asked = {"model": "tiny", "prompt": "x", "max_tokens": 4, "logprobs": 2}
    with served.client() as client:
        found = client.completions.create(**asked)
        parts = [c.choices[0].logprobs for c in client.completions.create(**asked, stream=True)]
    for name in ("tokens", "text_offset"):
        streamed = [one for part in parts if part for one in getattr(part, name)]
        assert streamed == getattr(found.choices[0].logprobs, name)
    assert len(found.choices[0].logprobs.token_logprobs) == 4
    assert len(found.choices[0].logprobs.top_logprobs[0]) == 2


@pytest.mark.parametrize("method", ["DELETE", "PUT", "PATCH", "NONSENSE"])
def test_a_method_that_is_not_known_is_refused_in_openai_s_form(served, method):
    status, told, headers = served.raw(method, "/v1/models")
    assert (status, headers["Content-Type"]) == (405, "application/json")
    assert told["error"]["message"] == f"{method} is not supported; GET and POST are."
    assert served.raw("HEAD", "/v1/models")[0] == 405


def test_a_seed_gives_the_same_answer(served):
    first, second, other = (
        chat(served, "hello", 12, temperature=1.5, seed=seed).choices[0].message.content
        for seed in (1, 1, 2)
    )
    assert first == second != other


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"text": "x" * 600}, r"The prompt has \d+ tokens; the model's context holds 512"),
        ({"temperature": -1}, "temperature must be at least 0"),
        ({"n": 2}, "n is not supported"),
        ({"text": []}, "messages is missing or empty"),
        ({"text": [{"content": "x"}]}, r"messages\[0\] has no role"),
        ({"text": [{"role": "assistant", "content": "x"}]}, "A user speaks first"),
    ],
)
def test_what_cannot_be_answered_is_said_in_words(served, options, words):
    text = options.pop("text", "x")
    with pytest.raises(openai.BadRequestError, match=words) as refused:
        chat(served, text, **options)
    assert refused.value.body["type"] == "invalid_request_error"
    options["text"] = text


def test_a_template_thinks_only_if_its_publisher_has_it_so(tmp_path):
    switch = "{% if enable_thinking %}deep{% endif %}"
    folder = saved(tmp_path / "llama", "llama", template=tiny.CHATML + switch, think=True)
    with serving(folder) as found:
        prompt = found.tokenizer.prompt([{"role": "user", "content": "hello"}]).tokens
        assert chat(found, "hello", 1).usage.prompt_tokens == len(prompt)
        deep = {"chat_template_kwargs": {"enable_thinking": True}}
        asked = chat(found, "hello", 1, extra_body=deep)
        assert asked.usage.prompt_tokens == len(prompt) + len("deep")


SCHEMA = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["a", "b"]},
        "n": {"type": "integer", "maximum": 99, "minimum": 0},
    },
    "required": ["kind", "n"],
    "additionalProperties": False,
}


def formatted(schema):
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


@pytest.mark.parametrize("name", ["llama", "qwen3_next"])
def test_answers_at_once_satisfy_their_schemas(name, tmp_path):
    folder = saved(tmp_path / name, name)
    tiny.save_tokenizer(folder)
    file = folder / "tokenizer.json"
    file.write_text(file.read_text().replace("think>", "other>"))
    with serving(folder) as found:

        def ask(text):
            kind = {"response_format": formatted(SCHEMA)} if len(text) > 3 else {}
            return chat(found, text, 40, temperature=1.0, **kind).choices[0]

        with ThreadPoolExecutor(len(TEXTS)) as pool:
            answers = dict(zip(TEXTS, pool.map(ask, TEXTS), strict=True))
        for text in TEXTS:
            if len(text) > 3:
                Draft202012Validator(SCHEMA).validate(json.loads(answers[text].message.content))
                assert answers[text].finish_reason == "stop"


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (formatted({"type": "x"}), "The JSON schema cannot be followed: Invalid type"),
        ({"type": "json_schema"}, "response_format is none"),
        ({"type": "grammar"}, "response_format is none"),
    ],
)
def test_a_format_that_cannot_be_followed_is_said_in_words(served, wanted, words):
    with pytest.raises(openai.BadRequestError, match=words):
        chat(served, "x", response_format=wanted)
    assert chat(served, "x", 2, response_format={"type": "text"}).choices


def test_pictures_are_refused_and_not_fetched(served):
    part = {"type": "image_url", "image_url": {"url": f"http://127.0.0.1:{served.port}/x.png"}}
    with pytest.raises(openai.BadRequestError, match="only text is understood"):
        chat(served, [{"role": "user", "content": [part]}])
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    found = chat(served, [{"role": "user", "content": parts}])
    assert found.choices[0].message.content == chat(served, "hello").choices[0].message.content


def test_an_answer_ends_where_the_context_does(served):
    found = chat(served, "x" * 470, 1000)
    assert found.usage.total_tokens == 512
    assert found.choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/chat/completions", "{", 400),
        ("POST", "/v1/chat/completions", "[]", 400),
        ("POST", "/v1/completions", '{"prompt": ""}', 400),
        ("POST", "/v1/completions", '{"prompt": [1, 2]}', 400),
        ("POST", "/v1/embeddings", "{}", 404),
        ("GET", "/v1/nothing", None, 404),
        ("GET", "/v1/models", None, 200),
        ("GET", "/health", None, 200),
        ("OPTIONS", "/v1/models", None, 204),
    ],
)
def test_every_reply_is_json_and_no_other_site_may_read_it(served, method, path, body, status):
    found, reply, headers = served.raw(method, path, body)
    assert found == status
    assert ("error" in (reply or {})) == (status >= 400)
    assert not [name for name in headers if name.startswith("Access-Control")]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost:1"}, 200),
        ({"Host": "[::1]:80"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Origin": "http://localhost:3000"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_pages_in_a_browser_are_refused(served, headers, status):
    assert served.raw("GET", "/v1/models", **headers)[0] == status
    answer = served.raw("POST", "/v1/completions", '{"prompt": "x", "max_tokens": 1}', **headers)
    assert answer[0] == status


def test_with_a_key_only_who_has_it_is_answered(served):
    with serving(served.folder, key="secret") as locked:
        with locked.client("secret") as client:
            assert client.models.list().data
        with locked.client("other") as client:
            for ask in (client.models.list, lambda: client.completions.create(model="", prompt="")):
                with pytest.raises(openai.AuthenticationError, match="The key is not known"):
                    ask()
        assert locked.raw("GET", "/v1/models")[0] == 401
        known = {"Authorization": "Bearer secret"}
        assert locked.raw("GET", "/v1/models", Host="some.where", **known)[0] == 200


def test_a_client_that_leaves_frees_the_model(served):
    with served.client() as client:
        options = {"max_tokens": 400, "stream": True}
        stream = client.completions.create(model="tiny", prompt="hello", **options)
        assert next(iter(stream)).choices
        stream.close()
    assert chat(served, "x", 3).usage.completion_tokens == 3


def run(*arguments, **environment):
    return CliRunner().invoke(cli, ["serve", *arguments], env={"MLXARCH_KEY": None, **environment})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "some.where"])
def test_another_host_needs_a_key(host):
    for environment in ({}, {"MLXARCH_KEY": ""}):
        result = run("--host", host, **environment)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "set MLXARCH_KEY" in result.stderr


def test_a_port_that_is_taken_is_said_in_words(served):
    with pytest.raises(MlxarchError, match=r"cannot be listened on: .*in use"):
        Listener("127.0.0.1", served.port)


@pytest.mark.slow
@pytest.mark.usefixtures("foreground")
def test_the_address_is_the_only_line_and_an_interrupt_is_the_end(tmp_path):
    folder = saved(tmp_path / "llama", "llama")
    command = [sys.executable, "-m", "mlxarch.app", "serve", folder, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        url = process.stdout.readline().strip()
        with openai.OpenAI(base_url=url, api_key="none") as client:
            assert [model.id for model in client.models.list()] == ["llama"]
            assert client.completions.create(model=str(folder), prompt="x", max_tokens=2).choices
        os.kill(process.pid, signal.SIGINT)
        assert process.stdout.read() == ""
        assert "POST /v1/completions" in process.stderr.read()
    assert process.returncode == 0


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_is_an_error(tmp_path):
    folder = saved(tmp_path / "llama", "llama")
    (folder / "model.safetensors").write_bytes(b"nothing")
    command = [sys.executable, "-m", "mlxarch.app", "serve", folder, "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (1, "")
    assert "\nFormatError: " in done.stderr
    assert "Traceback" not in done.stderr
