"""What a chat template lets people choose, read from templates in the shapes that are in use."""

import json

import pytest
import tiny

from mlxarch.tokenizer import Tokenizer

TURNS = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
OPENED = "{% if add_generation_prompt %}[assistant]%s{% endif %}"


def switches(folder, template):
    tiny.save_tokenizer(folder, template)
    (folder / "config.json").write_text(json.dumps(tiny.CONFIGS["llama"]))
    return Tokenizer(folder).switches


def opening(text):
    return TURNS + OPENED.replace("%s", text)


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        (TURNS, {}),
        # Qwen3.5 in large: on unless told; in small: off unless told.
        (
            opening("{% if enable_thinking is defined and enable_thinking is false %}-{% endif %}"),
            {"enable_thinking": [True, False]},
        ),
        (
            opening("{% if enable_thinking is defined and enable_thinking is true %}+{% endif %}"),
            {"enable_thinking": [False, True]},
        ),
        # GLM: a word after the question, by an expression.
        (
            TURNS + "{{ '/no' if enable_thinking is defined and not enable_thinking else '' }}",
            {"enable_thinking": [True, False]},
        ),
        # Kimi calls it otherwise.
        (
            opening("{% if thinking is defined and thinking is false %}-{% else %}+{% endif %}"),
            {"thinking": [True, False]},
        ),
        # A default under the same name, or another.
        (
            "{% set think = think if think is defined else true %}" + opening("{{ think }}"),
            {"think": [True, False]},
        ),
        (
            "{% set now = think | default(false) %}" + opening("{% if now %}+{% endif %}"),
            {"think": [False, True]},
        ),
        (
            "{% set ns = namespace(on=think) %}" + opening("{% if ns.on %}+{% endif %}"),
            {"think": [False, True]},
        ),
        # Efforts by their names.
        (
            "{% set e = effort if effort is defined and effort in ['low', 'high'] else 'max' %}"
            + opening("{{ e | upper }}"),
            {"effort": ["max", "low", "high"]},
        ),
        (
            "{% set e = 'high' if effort is defined and effort == 'high' else 'max' %}"
            + opening("{{ e }}"),
            {"effort": ["max", "high"]},
        ),
        (
            "{% set e = effort | default('mid') %}{% if e not in ('low', 'mid') %}"
            "{{ raise_exception('none such') }}{% endif %}" + opening("{{ e }}"),
            {"effort": ["mid", "low"]},
        ),
        (
            "{% if not effort is defined or effort not in ['high', 'no'] %}"
            "{% set effort = 'no' %}{% endif %}" + opening("{{ effort }}"),
            {"effort": ["no", "high"]},
        ),
        # What nobody says is none of those that are named.
        (
            opening("{% if effort == 'low' %}l{% elif effort == 'high' %}h{% endif %}"),
            {"effort": [None, "low", "high"]},
        ),
        # Seen in what was thought before only.
        (
            "{% for m in messages %}{% if not clear %}{{ m.reasoning_content }}{% endif %}"
            "{{ m.content }}{% endfor %}",
            {"clear": [False, True]},
        ),
        # Seen with tools only.
        (
            TURNS + "{% if tools and first is not false %}{{ tools }}{% endif %}",
            {"first": [True, False]},
        ),
    ],
)
def test_switches_and_their_values_the_template_s_own_first(tmp_path, template, wanted):
    assert switches(tmp_path, template) == wanted


@pytest.mark.parametrize(
    "template",
    [
        # Free text, a date, lists, and what only pictures need.
        "{% if about %}{{ about }}{% endif %}",
        "{% if not today is defined %}{% set today = '26 Jul' %}{% endif %}{{ today }}",
        "{% for each in custom_tools or [] %}{{ each.name }}{% endfor %}",
        "{% if count_images and messages[0].image %}1{% endif %}",
        "{% if budget is defined %}{{ budget }}{% endif %}",
        "{{ bos_token }}{% if documents %}x{% endif %}",
        # No choice where the other is refused.
        "{% if think is false %}{{ raise_exception('it always does') }}{% endif %}",
        "{% generation %}{{ messages[0].content }}{% endgeneration %}",
        "{% if %}",
    ],
)
def test_what_is_no_choice_is_no_switch(tmp_path, template):
    assert switches(tmp_path, template + TURNS) == {}


def test_a_model_without_a_template_has_none(tmp_path):
    assert switches(tmp_path, None) == {}
