"""config.toml: read strictly, added to without touching what else is in it."""

import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxarch.app.sampling import Sampling
from mlxarch.app.settings import LIMITS, PERSONAS, PRESETS, Persona, Settings, checked, merged
from mlxarch.errors import FormatError

TEXT = """\
# mine
theme = "nord"

[presets.letters]
temperature = 0.9 # warm

[personas.editor]
system = "You edit prose."
preset = "letters"

[models."arcee-ai/Trinity-Mini"]
temperature = 0.6
switches = { enable_thinking = false }
"""
MODEL = "arcee-ai/Trinity-Mini"


@pytest.fixture
def file(tmp_path):
    return tmp_path / "deep" / "config.toml"


def written(file, text=TEXT):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return Settings(file)


def test_without_a_file_there_is_what_comes_with_mlxarch(file):
    settings = Settings(file)
    assert (settings.theme, settings.presets, settings.personas) == ("", PRESETS, PERSONAS)
    assert settings.of_model(MODEL) == Sampling()
    assert not file.exists()


def test_a_file_adds_to_it(file):
    settings = written(file)
    assert settings.theme == "nord"
    assert settings.presets == {**PRESETS, "letters": Sampling(temperature=0.9)}
    assert settings.personas["editor"] == Persona("You edit prose.", "letters")
    assert settings.of_model(MODEL) == Sampling(
        temperature=0.6, switches={"enable_thinking": False}
    )


def test_what_is_kept_is_there_again_and_all_else_stays_as_it_was(file):
    settings = written(file)
    settings.keep("Qwen/Qwen3.5-4B", Sampling(top_k=20, stop=["END"], seed=7))
    settings.keep_theme("mlxarch-light")
    text = file.read_text()
    assert "# mine" in text
    assert "temperature = 0.9 # warm" in text
    again = Settings(file)
    assert again.of_model("Qwen/Qwen3.5-4B") == Sampling(top_k=20, stop=["END"], seed=7)
    assert again.of_model(MODEL) == settings.of_model(MODEL)
    assert again.theme == "mlxarch-light"
    again.keep(MODEL, Sampling())
    assert MODEL not in file.read_text()
    assert Settings(file).of_model(MODEL) == Sampling()


def test_the_file_is_its_owner_s_alone(file):
    Settings(file).keep_theme("nord")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("theme = ", "cannot be read"),
        ("theme = 3", "theme is 3; wanted is a text"),
        ("presets = 3", "presets holds no tables"),
        ("[presets.a]\nheat = 1", "presets.a has no 'heat'; it has max_tokens, temperature"),
        ("[presets.a]\ntemperature = -1", "presets.a.temperature is -1; wanted is a number from 0"),
        ("[presets.a]\ntemperature = nan", "temperature is nan; wanted is a number from 0"),
        ("[presets.a]\ntemperature = inf", "temperature is inf; wanted is a number from 0"),
        ("[presets.a]\ntop_p = 0", "wanted is a number above 0, up to 1"),
        ("[presets.a]\nseed = true", "seed is True; wanted is a whole number"),
        ("[models.b]\nstop = ['']", "stop is \\[''\\]; wanted is a list of texts"),
        ("[personas.c]\nsystem = 1", "personas.c.system is 1; wanted is a text"),
        ("[personas.c]\nmood = 'x'", "personas.c has no 'mood'"),
        ("[personas.c]\npreset = 'x'", "preset is 'x'; there are publisher, greedy"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(file, text, words):
    with pytest.raises(FormatError, match=words) as found:
        written(file, text)
    assert str(file) in str(found.value)


def test_a_file_that_was_broken_meanwhile_is_not_written_over(file):
    settings = written(file)
    file.write_text("theme = ")
    with pytest.raises(FormatError):
        settings.keep_theme("nord")
    assert file.read_text() == "theme = "


def test_every_field_of_a_sampling_has_its_limits():
    assert set(LIMITS) == set(vars(Sampling()))
    for name, preset in PRESETS.items():
        said = {k: v for k, v in vars(preset).items() if v not in (None, [], {})}
        assert checked(said, name, "here") == preset
    assert all(persona.preset in ("", *PRESETS) for persona in PERSONAS.values())


def test_what_is_said_above_counts():
    below, above = Sampling(temperature=0.7, seed=3), Sampling(temperature=0.0)
    assert merged(below, above) == Sampling(temperature=0.0, seed=3)
    assert merged(above, Sampling()) == above


@given(
    st.dictionaries(st.text(max_size=8), st.text(max_size=8) | st.integers() | st.booleans()),
    st.text(min_size=1, max_size=20),
)
def test_any_model_and_any_switches_come_back(tmp_path_factory, switches, model):
    file = tmp_path_factory.mktemp("settings") / "config.toml"
    small = {k: v for k, v in switches.items() if not isinstance(v, int) or abs(v) < 2**63}
    wanted = Sampling(temperature=0.5, switches=small)
    Settings(file).keep(model, wanted)
    assert Settings(file).of_model(model) == wanted
