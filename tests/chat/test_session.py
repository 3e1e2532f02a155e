"""The conversation with the engine, without a screen."""

from mlxarch.app.chat.context import Context
from mlxarch.app.chat.keeping import Keeper
from mlxarch.app.chat.session import Phase, Sampling, Session
from mlxarch.app.engine import protocol
from mlxarch.app.history import History

from .fake import GATE, READY, FakeEngine, answers, costs, ends, fails, reads, says


def keeper():
    return Keeper(History.nowhere())


def session(*scripts, **options):
    """A session whose engine has loaded, with all events so far taken."""
    engine = FakeEngine(*scripts, load=(READY,))
    made = Session(engine, load=protocol.Load(path="m"), keeper=keeper(), **options)
    made.begin()
    made.load()
    drain(made)
    return made


def drain(session):
    """Take every event that waits; the failures among them."""
    failures = []
    while not session.engine._events.empty():
        failures.append(session.take(session.engine.receive()))
    return [failure for failure in failures if failure]


def ask(session, question):
    turn = session.ask(question)
    drain(session)
    return turn


def sent(session):
    """The messages of the last `Generate`, as (role, content)."""
    messages = session.engine.of(protocol.Generate)[-1].messages
    return [(message["role"], message["content"]) for message in messages]


def test_each_question_is_sent_with_the_whole_conversation():
    talk = session(answers("One."), answers("Two."), answers("Three."), system="Be brief.")
    for question in ("a", "b", "c"):
        ask(talk, question)
    assert sent(talk) == [
        ("system", "Be brief."),
        ("user", "a"),
        ("assistant", "One."),
        ("user", "b"),
        ("assistant", "Two."),
        ("user", "c"),
    ]


def test_why_memory_cut_an_answer_is_told():
    talk = session([says("One"), lambda n: protocol.Finish(id=n, reason="memory", remark="Full.")])
    turn = talk.ask("a")
    (failure,) = drain(talk)
    assert "Full." in failure.message
    assert (turn.ended, turn.failed, talk.phase) == ("memory", False, Phase.IDLE)


def test_how_tokens_are_chosen_is_sent_along():
    sampling = Sampling(max_tokens=7, temperature=0.5, top_p=0.9, seed=3)
    talk = session(answers("One."), sampling=sampling)
    ask(talk, "a")
    command = talk.engine.of(protocol.Generate)[0]
    assert (command.max_tokens, command.temperature) == (7, 0.5)
    assert (command.top_p, command.seed) == (0.9, 3)


def test_a_stopped_answer_is_part_of_the_conversation():
    talk = session([says("Half an"), GATE], answers("Two."))
    ask(talk, "a")
    talk.stop()
    drain(talk)
    ask(talk, "b")
    assert sent(talk) == [("user", "a"), ("assistant", "Half an"), ("user", "b")]


def test_a_question_without_an_answer_is_not_sent_again():
    talk = session([reads(0, 9), GATE], [fails("No.")], answers("Three."))
    ask(talk, "a")
    talk.stop()
    drain(talk)
    ask(talk, "b")
    ask(talk, "c")
    assert sent(talk) == [("user", "c")]


def test_what_a_thinking_model_thought_is_not_sent_again():
    thought = says("Hm.", channel="thinking")
    talk = session([thought, says("Yes."), ends()], answers("Two."))
    ask(talk, "a")
    ask(talk, "b")
    assert sent(talk) == [("user", "a"), ("assistant", "Yes."), ("user", "b")]


def test_stop_is_sent_once_and_for_the_answer_under_way():
    talk = session(answers("One."), [reads(0, 9), GATE])
    talk.stop()
    ask(talk, "a")
    ask(talk, "b")
    talk.stop()
    talk.stop()
    assert talk.engine.of(protocol.Stop) == [protocol.Stop(id=2)]
    drain(talk)
    assert talk.phase is Phase.IDLE


def test_what_comes_between_stop_and_the_end_is_kept():
    talk = session([says("Half"), GATE])
    ask(talk, "a")
    talk.stop()
    talk.take(says(" an")(1))
    assert talk.phase is Phase.STOPPING
    drain(talk)
    assert talk.turn.text == "Half an"
    assert talk.turn.ended == "cancelled"


def test_a_new_conversation_stops_the_old_one_and_ignores_its_late_events():
    talk = session([says("Old"), GATE], [reads(0, 9), GATE])
    ask(talk, "a")
    talk.clear()
    assert talk.engine.of(protocol.Stop) == [protocol.Stop(id=1)]
    ask(talk, "b")  # takes the end of the old answer, too
    talk.take(says("late")(1))
    talk.take(fails("late")(1))
    talk.take(ends()(1))
    assert sent(talk) == [("user", "b")]
    assert (talk.turn.text, talk.phase) == ("", Phase.READING)


def test_nothing_that_comes_after_the_end_changes_an_answer():
    talk = session(answers("One."))
    ask(talk, "a")
    talk.take(says(" More.")(1))
    assert talk.turn.text == "One."


def test_an_error_ends_the_answer_and_keeps_its_text():
    talk = session([says("Half"), fails("It broke.", kind="CheckpointError")])
    talk.ask("a")
    (failure,) = drain(talk)
    assert (failure.title, failure.message) == ("CheckpointError", "It broke.")
    assert (talk.turn.text, talk.turn.failed, talk.phase) == ("Half", True, Phase.IDLE)


def test_a_model_that_cannot_be_loaded_may_be_tried_again():
    error = protocol.Error(id=None, kind="DoesNotFit", message="It needs 129 GB.")
    talk = Session(FakeEngine(load=(error,)), load=protocol.Load(path="m"), keeper=keeper())
    talk.load()
    (failure,) = drain(talk)
    assert talk.phase is Phase.UNLOADED
    assert "Ctrl+R" in failure.advice


def test_an_engine_that_dies_fails_the_answer_and_says_why():
    talk = session([says("Half"), GATE])
    ask(talk, "a")
    talk.engine.die(-9, "Killed\n")
    assert talk.engine.receive() is None
    failure = talk.lost()
    assert "-9" in failure.title
    assert failure.message == "Killed"
    assert talk.turn.failed
    assert talk.phase is Phase.GONE


def test_the_context_in_use_is_the_prompt_and_the_answer():
    talk = session([says("One."), costs(prompt=100, tokens=20), ends()])
    assert Context(talk).tokens == 0
    ask(talk, "a")
    assert Context(talk).tokens == 120
