"""The history: what was said comes back as it was, whatever the tree looks like."""

import itertools

import pytest

from mlxarch.app.history import FOUND, History, HistoryError


class Clock:
    """A second later each time."""

    def __init__(self):
        self.now = itertools.count(1000)

    def __call__(self):
        return float(next(self.now))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "kept" / "history.db"


@pytest.fixture
def history(path):
    with History.open(path, clock=Clock()) as opened:
        yield opened


def answered(history, session, parent, question, answer, **how):
    """A question and its answer, as the chat writes them."""
    asked = history.add(session, parent, "user", question)
    draft = history.start(session, asked.id, model="guide")
    draft.grow(answer, **how)
    return draft.finish("stop")


def test_a_conversation_comes_back_as_it_was(history, path):
    session = history.begin(model="guide", system="Be brief.", temperature=0.5)
    first = history.add(session, None, "user", "What is MLX?")
    draft = history.start(session, first.id, model="guide")
    draft.grow("An array", "hm", [0.1])
    draft.grow("An array library.", "hm, well", [0.1, 0.02, 0.0314159], thoughts=2)
    second = draft.finish("stop", stats={"prompt_tokens": 7})
    history.set_draft(session, "and then")
    history.close()

    with History.open(path) as again:
        found = again.load(session)
        assert again.last() == session
    assert found.thread() == [first, second]
    assert (found.model, found.system, found.settings) == (
        "guide",
        "Be brief.",
        {"temperature": 0.5},
    )
    assert (found.title, found.draft, found.head) == ("What is MLX?", "and then", second.id)
    assert (second.thinking, second.ended, second.model) == ("hm, well", "stop", "guide")
    assert second.seconds == pytest.approx([0.1, 0.02, 0.0314159], rel=1e-3)
    assert second.facts == {"thoughts": 2, "stats": {"prompt_tokens": 7}}


def test_the_same_words_in_another_place_or_time_are_another_message(history):
    session = history.begin(model="guide")
    one = history.add(session, None, "user", "again")
    two = history.add(session, None, "user", "again")
    three = history.add(session, two.id, "user", "again")
    assert len({one.id, two.id, three.id}) == 3
    assert history.children(session, None) == [one, two]
    assert history.thread(three.id) == [two, three]


def test_another_answer_is_a_branch_and_the_head_says_which_is_shown(history):
    session = history.begin(model="guide")
    one = answered(history, session, None, "Tell me", "Once")
    draft = history.start(session, one.parent)
    draft.grow("Twice")
    two = draft.finish("stop")
    found = history.load(session)
    assert found.head == two.id
    assert [m.content for m in found.children(one.parent)] == ["Once", "Twice"]
    history.set_head(session, one.id)
    assert [m.content for m in history.load(session).thread()] == ["Tell me", "Once"]


def test_an_answer_that_goes_on_takes_the_place_of_its_beginning(history):
    session = history.begin(model="guide")
    asked = history.add(session, None, "user", "Count")
    draft = history.start(session, asked.id)
    draft.grow("One, two")
    cut = draft.finish("cancelled")
    assert cut.partial
    draft = history.start(session, asked.id, replaces=cut.id)
    draft.grow("One, two, three")
    whole = draft.finish("stop")
    assert not whole.partial
    assert history.children(session, asked.id) == [whole]


def test_what_something_was_said_after_keeps_its_place(history):
    session = history.begin(model="guide")
    cut = answered(history, session, None, "Count", "One, two")
    after = history.add(session, cut.id, "user", "And then?")
    draft = history.start(session, cut.parent, replaces=cut.id)
    draft.grow("One, two, three")
    whole = draft.finish("stop")
    assert history.children(session, cut.parent) == [cut, whole]
    assert history.thread(after.id)[1] == cut


def test_an_emptied_input_stays_empty(history):
    session = history.begin(model="guide")
    history.set_draft(session, "half a quest")
    history.flush()
    history.set_draft(session, "half a question")
    history.set_draft(session, "")
    history.add(session, None, "user", "half a question")
    history.flush()
    assert history.load(session).draft == ""


def test_an_answer_without_a_word_leaves_the_conversation_where_it_was(history):
    session = history.begin(model="guide")
    one = answered(history, session, None, "Tell me", "Once")
    history.start(session, one.parent).drop()
    assert history.load(session).head == one.id
    assert history.children(session, one.parent) == [one]


def test_a_fork_shares_its_past_and_nothing_else(history):
    session = history.begin(model="guide")
    first = answered(history, session, None, "Tell me", "Once")
    second = answered(history, session, first.id, "More", "Twice")
    fork = history.fork(session, first.id)
    other = answered(history, fork, first.id, "Less", "Half")
    assert [m.content for m in history.load(fork).thread()] == ["Tell me", "Once", "Less", "Half"]
    assert history.load(session).head == second.id
    assert history.load(fork).head == other.id
    assert {m.content for m in history.children(session, first.id)} == {"More"}
    history.delete(session)
    assert [m.content for m in history.load(fork).thread()] == ["Tell me", "Once", "Less", "Half"]
    with pytest.raises(HistoryError, match="No conversation has the id"):
        history.load(session)


def test_what_nothing_was_said_in_is_in_no_list(history):
    session = history.begin(model="guide")
    assert history.sessions() == []
    history.set_draft(session, "half a quest")
    assert [found.title for found in history.sessions()] == ["half a quest"]


def test_forks_and_copies_are_called_as_no_other_conversation_is(history):
    session = history.begin(model="guide")
    said = answered(history, session, None, "What is MLX?", "Arrays")
    history.rename(history.fork(session, said.id), "My chat")
    forks = [history.fork(session, said.id) for _ in range(2)]
    forks += [history.fork(forks[0], said.id), history.copy(session), history.copy(forks[0])]
    assert [history.load(fork).title for fork in forks] == [
        "Fork of What is MLX?",
        "Fork 2 of What is MLX?",
        "Fork 3 of What is MLX?",
        "Copy of What is MLX?",
        "Copy of Fork of What is MLX?",
    ]
    assert history.load(history.fork(session, None)).title == "(empty)"


def test_the_title_is_the_first_question_until_a_person_gives_another(history):
    session = history.begin(model="guide")
    answered(history, session, None, "\n  What   is\tMLX?\nAnd why " + "so " * 99, "An array")
    assert history.load(session).title == "What is MLX?"
    history.rename(session, " My\n chat ")
    assert history.load(session).title == "My chat"
    history.rename(session, "")
    assert history.load(session).title == "What is MLX?"


def test_search_finds_all_words_wherever_they_are_and_marks_them(history):
    one = history.begin(model="guide")
    answered(history, one, None, "How do I convert a model?", "With mlxarch convert, in a café.")
    two = history.begin(model="guide")
    answered(history, two, None, "Tell me of cats", "They convert mice into a purr.")
    assert [found.id for found in history.sessions("convert")] == [one, two]  # a prompt counts more
    assert [found.id for found in history.sessions("model cafe")] == [one]
    assert [found.id for found in history.sessions("cats pur")] == [two]
    assert history.sessions("cats model") == []
    (found,) = history.sessions("purr")
    assert FOUND[0] + "purr" + FOUND[1] in found.snippet
    history.rename(two, "Felines")
    assert [found.id for found in history.sessions("felin")] == [two]
    history.delete(one)
    assert [found.id for found in history.sessions("convert")] == [two]


def test_a_snippet_shows_where_most_of_the_words_are(history):
    session = history.begin(model="guide")
    text = (
        "One cat. "
        + "Nothing of note. " * 30
        + "Then the Café-owner's cats met."
        + " And so on." * 30
    )
    answered(history, session, None, text, "Yes")
    (found,) = history.sessions("cafe owner cats")
    plain = "Then the \x02Café\x03-\x02owner\x03's \x02cats\x03 met."
    assert plain in found.snippet
    assert found.snippet[0] == found.snippet[-1] == "…"
    assert len(found.snippet) < 120


def test_an_id_may_be_given_by_its_beginning(history):
    session = history.begin(model="guide")
    history.add(session, None, "user", "Hi")
    assert history.find(session[:3]) == session
    with pytest.raises(HistoryError, match="No conversation has the id"):
        history.find("nothing")
    with pytest.raises(HistoryError, match="No conversation has the id"):
        history.find("")


def test_without_a_file_all_is_the_same_until_the_program_ends():
    with History.nowhere() as history:
        session = history.begin(model="guide")
        one = answered(history, session, None, "Tell me", "Once")
        assert history.load(session).head == one.id
        assert [found.title for found in history.sessions("onc")] == ["Tell me"]
