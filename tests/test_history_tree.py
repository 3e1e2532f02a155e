"""Whatever is done to trees of messages, and in what order: nothing is lost, nothing is left."""

import itertools
import sqlite3
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from mlxarch.app.history import History

texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=20)


class Kept:
    """What a conversation should hold."""

    def __init__(self, messages=(), head=None):
        self.messages, self.head = dict(messages), head
        self.draft = self.title = ""

    def branch(self, message):
        """A message and its past."""
        found = []
        while message is not None:
            found.append(self.messages[message])
            message = found[-1].parent
        return {one.id: one for one in reversed(found)}


class Trees(RuleBasedStateMachine):
    """The store against dicts."""

    sessions = Bundle("sessions")
    growing = Bundle("growing")

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "history.db"
        self.clock = itertools.count(1).__next__
        self.history = History.open(self.path, clock=self.clock)
        self.kept = {}
        self.words = itertools.count(1)
        self.moved = {}  # from an answer to the one that took its place
        self.awaited = []  # what a growing answer is to follow: conversation, message

    def teardown(self):
        self.history.close()
        self.folder.cleanup()

    def word(self):
        """A word that no other message has."""
        return f"w{next(self.words)}x"

    def place(self, session, data):
        """Any message of a conversation, or its beginning."""
        return data.draw(st.sampled_from([None, *self.kept[session].messages]))

    @rule(target=sessions)
    def begin(self):
        session = self.history.begin(model="guide")
        self.kept[session] = Kept()
        return session

    @rule(session=sessions, data=st.data(), text=texts, role=st.sampled_from(["user", "assistant"]))
    def add(self, session, data, text, role):
        kept = self.kept[session]
        parent = self.place(session, data)
        said = self.history.add(session, parent, role, f"{text} {self.word()}", note=text)
        kept.messages[said.id], kept.head = said, said.id

    @rule(target=growing, session=sessions, data=st.data(), goes_on=st.booleans())
    def start(self, session, data, goes_on):
        kept = self.kept[session]
        parent, replaced = self.place(session, data), None
        if goes_on and kept.head is not None:
            replaced, parent = kept.head, kept.messages[kept.head].parent
        draft = self.history.start(session, parent, replaces=replaced)
        before, kept.head = kept.head, parent
        self.awaited.append((session, parent))
        return session, draft, parent, before, replaced

    @rule(grown=growing, text=texts)
    def grow(self, grown, text):
        session, draft, parent, *_ = grown
        if self.there(session, parent):  # else it is said that it is gone
            draft.grow(text, text)

    @rule(grown=consumes(growing))
    def finish(self, grown):
        session, draft, parent, _, replaced = grown
        self.awaited.remove((session, parent))
        if not self.there(session, parent):
            return
        kept = self.kept[session]
        draft.grow(f"{draft.message.content} {self.word()}")
        said = draft.finish("stop")
        kept.messages[said.id] = said
        if kept.head == parent:
            kept.head = said.id
        followed = {one.parent for one in kept.messages.values()}
        followed |= {after for where, after in self.awaited if where == session}
        if replaced and replaced not in followed:
            kept.messages.pop(replaced, None)
            self.moved[session, replaced] = said.id
            if kept.head == replaced:
                kept.head = said.id

    @rule(grown=consumes(growing))
    def drop(self, grown):
        session, draft, parent, before, _ = grown
        self.awaited.remove((session, parent))
        draft.drop()
        while (session, before) in self.moved:
            before = self.moved[session, before]
        if session in self.kept and self.kept[session].head == parent:
            self.kept[session].head = before

    def there(self, session, message):
        return session in self.kept and message in {None, *self.kept[session].messages}

    @rule(target=sessions, session=sessions, data=st.data())
    def fork(self, session, data):
        kept = self.kept[session]
        if not kept.messages:
            return multiple()
        message = data.draw(st.sampled_from(list(kept.messages)))
        fork = self.history.fork(session, message)
        self.kept[fork] = Kept(kept.branch(message), message)
        self.kept[fork].title = "of its own"
        return fork

    @rule(session=sessions, data=st.data())
    def move(self, session, data):
        self.kept[session].head = self.place(session, data)
        self.history.set_head(session, self.kept[session].head)

    @rule(session=sessions, text=texts)
    def type(self, session, text):
        self.kept[session].draft = text
        self.history.set_draft(session, text)

    @rule(session=sessions, title=st.sampled_from(["", "Cats", "Dogs and cats"]))
    def rename(self, session, title):
        self.kept[session].title = title
        self.history.rename(session, title)

    @rule(session=consumes(sessions))
    def delete(self, session):
        del self.kept[session]
        self.history.delete(session)

    @invariant()
    def all_is_there(self):
        assert self.history.flush()
        assert not self.history.trouble
        listed = {found.id: found for found in self.history.sessions(limit=999)}
        for session, kept in self.kept.items():
            if session not in listed:  # nothing was said in it
                assert (kept.messages, kept.draft, kept.title) == ({}, "", "")
                continue
            found = self.history.load(session)
            assert found.messages == kept.messages
            assert list(found.messages) == sorted(found.messages, key=list(kept.messages).index)
            assert (found.head, found.draft) == (kept.head, kept.draft)
            assert listed[session].messages == len(kept.messages)
            assert [one.id for one in found.thread()] == list(kept.branch(kept.head))
        assert listed.keys() <= self.kept.keys()

    @invariant()
    def nothing_is_left_and_the_index_agrees(self):
        wanted = set().union(*(kept.messages for kept in self.kept.values()))
        with sqlite3.connect(self.path) as file:
            assert {row[0] for row in file.execute("SELECT id FROM messages")} == wanted
            file.execute("INSERT INTO words (words, rank) VALUES ('integrity-check', 1)")
        file.close()


TestTrees = Trees.TestCase
TestTrees.settings = settings(max_examples=8, stateful_step_count=25)


@pytest.mark.slow
def test_the_same_for_many_more_trees():
    run_state_machine_as_test(Trees, settings=settings(max_examples=200, stateful_step_count=40))
