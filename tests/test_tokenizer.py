"""The chat template on the way in, whole characters and channels on the way out."""

import json

import pytest
import tiny
import tiny_configs
from tiny import BOS, END_THINK, IM_END, IM_START, THINK
from transformers import AutoTokenizer

from mlxarch.errors import FormatError
from mlxarch.tokenizer import Reader, Tokenizer

HELLO = [{"role": "user", "content": "hé"}]


def load(folder, template=tiny.CHATML, generation=None, **config):
    """A tokenizer beside a config.json."""
    tiny.save_tokenizer(folder, template)
    (folder / "config.json").write_text(json.dumps({**tiny.CONFIGS["llama"], **config}))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return Tokenizer(folder)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load(tmp_path_factory.mktemp("tokenizer"))


def spell(text):
    """Tokens of a plain text: one a byte, numbered by the letter that stands for it."""
    letters = sorted(tiny.pre_tokenizers.ByteLevel.alphabet())
    byte = {**{i: chr(i) for i in range(33, 127)}, 32: "Ġ", 10: "Ċ"}
    spare = iter(range(256, 400))
    for i in range(256):
        kept = 33 <= i < 127 or 161 <= i < 173 or 174 <= i < 256
        byte[i] = chr(i) if kept else chr(next(spare))
    return [letters.index(byte[i]) for i in text.encode()]


def test_the_template_begins_the_text_and_nothing_does_so_again(tokenizer):
    opening = [IM_START, *spell("assistant\n")]
    turn = [BOS, IM_START, *spell("user\nhé"), IM_END, *spell("\n")]
    prompt = tokenizer.prompt(HELLO)
    assert prompt.tokens == turn + opening
    assert (prompt.turn, prompt.thinking) == (len(turn), False)


def test_without_a_template_the_contents_are_continued(tmp_path):
    prompt = load(tmp_path, template=None).prompt([{"role": "system", "content": "a"}, *HELLO])
    assert prompt.tokens == [BOS, *spell("a\nhé")]
    assert (prompt.turn, prompt.thinking) == (len(prompt.tokens), False)


def test_a_template_that_refuses_is_quoted(tokenizer):
    with pytest.raises(FormatError, match=r"refuses this conversation: A user speaks first\.$"):
        tokenizer.prompt([{"role": "assistant", "content": "hi"}])


def test_an_empty_conversation_is_an_error(tmp_path):
    with pytest.raises(FormatError, match="empty"):
        load(tmp_path, template="{% if false %}{% endif %}").prompt(HELLO)


def opened(tmp_path, opening):
    return load(tmp_path, tiny.CHATML.replace("assistant\n{%", f"assistant\n{opening}{{%"))


@pytest.mark.parametrize(
    ("opening", "thinking"), [("<think>\n", True), ("<think>\n\n</think>\n\n", False)]
)
def test_an_answer_may_begin_inside_its_thinking(tmp_path, opening, thinking):
    prompt = opened(tmp_path, opening).prompt(HELLO)
    assert prompt.thinking == thinking


def test_markers_that_a_user_writes_are_not_the_models_thinking(tokenizer):
    assert not tokenizer.prompt([{"role": "user", "content": "what is <think>?"}]).thinking


# As those of models that think are: thoughts of earlier turns are dropped, blanks trimmed.
THINKER = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}"
    "<think>\n{{ (m.reasoning_content or '') | trim }}\n</think>\n\n{% endif %}"
    "{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% else %}<think>\n{% endif %}"
    "{% endif %}"
)


def said(tokenizer, messages, **options):
    """A prompt and the text of its opened message."""
    prompt = tokenizer.prompt(messages, **options)
    letters = tokenizer._tokenizer.decode(prompt.tokens[prompt.turn :])
    return prompt, letters


@pytest.mark.parametrize(
    ("message", "text", "thinking", "lost"),
    [
        ({"content": "One, two"}, "<think>\n\n</think>\n\nOne, two", False, ""),
        ({"content": "One, \n"}, "<think>\n\n</think>\n\nOne,", False, " \n"),
        (
            {"content": "One", "reasoning_content": "Count."},
            "<think>\nCount.\n</think>\n\nOne",
            False,
            "",
        ),
        # Stopped while it thought, it goes on to think.
        ({"content": "", "reasoning_content": "Let me "}, "<think>\nLet me", True, " "),
        # Nothing was said: from the beginning.
        ({"content": ""}, "<think>\n", True, ""),
    ],
)
def test_an_answer_goes_on_where_it_ends(tmp_path, message, text, thinking, lost):
    tokenizer = load(tmp_path, THINKER)
    prompt, found = said(tokenizer, [*HELLO, {"role": "assistant", **message}])
    assert found == f"<|im_start|>assistant\n{text}"
    assert (prompt.thinking, prompt.lost) == (thinking, lost)
    turn = [IM_START, *spell("user\nhé"), IM_END, *spell("\n")]
    assert prompt.tokens[: prompt.turn] == turn


SHORT = tiny.CHATML.replace("{% for", "{% if messages | length > 2 %}{{ 1 / 0 }}{% endif %}{% for")


@pytest.mark.parametrize(
    ("template", "switches", "stays"),
    [
        (tiny.CHATML, {}, "<|im_start|>assistant\n"),
        (THINKER, {}, "<|im_start|>assistant\n"),
        (THINKER, {"enable_thinking": False}, "<|im_start|>assistant\n"),
        (tiny.CHATML.replace("assistant\n{%", "assistant\n\n{%"), {}, "<|im_start|>assistant\n"),
        (SHORT, {}, ""),
    ],
)
def test_what_of_an_opening_outlasts_its_answer(tmp_path, template, switches, stays):
    tokenizer = load(tmp_path, template)
    prompt = tokenizer.prompt(HELLO, switches=switches)
    assert tokenizer._tokenizer.decode(prompt.tokens[prompt.turn : prompt.lasting]) == stays
    if stays:
        later = [*HELLO, {"role": "assistant", "content": "One."}, *HELLO]
        again = tokenizer.prompt(later, switches=switches).tokens
        assert again[: prompt.lasting] == prompt.tokens[: prompt.lasting]
    # An answer that goes on is not opened anew.
    going_on = tokenizer.prompt([*HELLO, {"role": "assistant", "content": "One"}])
    assert going_on.lasting == going_on.turn


def test_an_answer_that_goes_on_is_as_transformers_has_it(tmp_path):
    messages = [*HELLO, {"role": "assistant", "content": "One, ", "reasoning_content": "Count."}]
    for template in (THINKER, tiny.CHATML):
        tokenizer = load(tmp_path, template)
        theirs = AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(
            messages, continue_final_message=True, return_dict=False
        )
        assert tokenizer.prompt(messages).tokens == list(theirs)


def test_thoughts_that_a_template_does_not_show_go_on_all_the_same(tokenizer):
    thought = {"role": "assistant", "content": "", "reasoning_content": "Let me"}
    prompt, text = said(tokenizer, [*HELLO, thought])
    assert text == "<|im_start|>assistant\n<think>\nLet me"
    assert prompt.thinking


def test_an_answer_that_a_template_does_not_show_cannot_go_on(tmp_path):
    tokenizer = load(tmp_path, "{% for m in messages %}{{ m.role }}{% endfor %}")
    with pytest.raises(FormatError, match="does not show the answer that is to go on"):
        tokenizer.prompt([*HELLO, {"role": "assistant", "content": "hi"}])


@pytest.mark.parametrize(
    ("lost", "said", "shown"),
    [("", " two", " two"), (" ", " two", "two"), ("\n\n", "\n\ntwo", "two"), (" \n", " a", "a")],
)
def test_the_first_word_of_what_goes_on_keeps_its_blank(tokenizer, lost, said, shown):
    reader = tokenizer.reader(lost=lost)
    assert "".join(reader.read(token)[1] for token in spell(said)) + reader.rest() == shown


def test_the_template_is_told_what_is_chosen(tmp_path):
    tokenizer = load(tmp_path, THINKER)
    assert tokenizer.switches == {"enable_thinking": [True, False]}
    assert tokenizer.prompt(HELLO).thinking
    prompt, text = said(tokenizer, HELLO, switches={"enable_thinking": False})
    assert text == "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert not prompt.thinking
    # None leaves it to the template.
    assert tokenizer.prompt(HELLO, switches={"enable_thinking": None}).thinking


def test_a_publisher_who_has_it_not_think_is_obeyed(tmp_path):
    tokenizer = load(tmp_path, THINKER.replace("is false", "is not true"))
    assert tokenizer.switches == {"enable_thinking": [False, True]}
    assert not tokenizer.prompt(HELLO).thinking
    assert tokenizer.prompt(HELLO, switches={"enable_thinking": True}).thinking


def test_stop_ids_are_found_wherever_they_are_listed(tmp_path):
    assert load(tmp_path / "a").stop_ids == {BOS, IM_END}  # eos_token, and one known by name
    listed = load(tmp_path / "b", generation={"eos_token_id": [7, 8]}, eos_token_id=9)
    assert listed.stop_ids == {BOS, IM_END, 7, 8, 9}


def test_a_folder_without_a_tokenizer_says_so(tmp_path):
    with pytest.raises(FormatError, match=r"has no tokenizer\.json"):
        Tokenizer(tmp_path)


def test_a_damaged_tokenizer_is_one_line(tmp_path):
    load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(FormatError, match=r"^The tokenizer in .* cannot be read: [^\n]*\.$"):
        Tokenizer(tmp_path)


def test_code_in_a_checkpoint_is_not_executed(tmp_path):
    load(tmp_path)
    (tmp_path / "mine.py").write_text("raise SystemExit('executed')")
    config = {"auto_map": {"AutoTokenizer": ["mine.Mine", None]}, "tokenizer_class": "Mine"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(FormatError, match="contains custom code"):
        Tokenizer(tmp_path)


def test_characters_never_appear_half(tokenizer):
    reader = tokenizer.reader()
    read = [reader.read(token) for token in spell("né 😀!")]
    assert [text for _, text in read] == ["n", "", "é", "", "", "", "", " 😀", "!"]
    assert {channel for channel, _ in read} == {"answer"}
    assert reader.rest() == ""


def test_a_character_that_is_never_whole_is_left_out(tokenizer):
    reader = tokenizer.reader()
    assert "".join(reader.read(token)[1] for token in spell("a😀")[:-1]) + reader.rest() == "a"


def test_thinking_has_its_channel_and_its_markers_are_not_shown(tokenizer):
    reader = tokenizer.reader()
    tokens = [*spell("a"), THINK, *spell("\nb\n"), END_THINK, *spell("\n\nc\n\nd")]
    assert [reader.read(token) for token in tokens] == [
        ("answer", "a"),
        ("answer", ""),
        ("thinking", ""),
        ("thinking", "b"),
        ("thinking", "\n"),
        ("thinking", ""),
        ("answer", ""),
        ("answer", ""),
        ("answer", "c"),
        ("answer", "\n"),
        ("answer", "\n"),
        ("answer", "d"),
    ]


def test_text_held_back_at_a_marker_is_not_lost(tokenizer):
    reader = tokenizer.reader(thinking=True)
    tokens = [*spell("a "), END_THINK, *spell("b")]
    assert [reader.read(token) for token in tokens] == [
        ("thinking", "a"),
        ("thinking", ""),
        ("thinking", " "),
        ("answer", "b"),
    ]


class Letters:
    """Stands for a tokenizer whose tokens are letters, and whose markers are abc and de."""

    think_start_tokens, think_end_tokens = (1, 2, 3), (4, 5)

    def __init__(self):
        self._new = ""

    def __len__(self):
        return 9

    @property
    def detokenizer(self):
        return Letters()

    def add_token(self, token):
        self._new += "_abcdefgh"[token]

    @property
    def last_segment(self):
        new, self._new = self._new, ""
        return new

    def finalize(self):
        pass


def test_a_marker_may_be_several_tokens():
    reader = Reader(Letters(), thinking=False)
    read = [reader.read(token) for token in [1, 2, 1, 2, 3, 4, 4, 5, 1, 6]]
    texts = [text for _, text in read]
    assert texts == ["", "", "ab", "", "", "", "d", "", "", "af"]
    channels = [channel for channel, _ in read]
    assert channels == ["answer"] * 5 + ["thinking"] * 3 + ["answer"] * 2
    reader.read(1)
    assert reader.rest() == "a"


def test_ids_beyond_the_vocabulary_have_no_text(tokenizer):
    assert tokenizer.reader().read(263) == ("answer", "")


@pytest.mark.parametrize("family", tiny_configs.CONFIGS)
def test_it_is_read_beside_the_config_of_every_family(family, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(tiny_configs.CONFIGS[family]))
    assert Tokenizer(tiny.save_tokenizer(tmp_path)).vocabulary
