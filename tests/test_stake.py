"""How far it is guessed ahead, on machines whose costs are known."""

import numpy as np
import pytest

from mlxarch.stake import Stake


class Machine:
    """Rounds of a second and `cost` more for each guess, of which `chance` are right."""

    def __init__(self, stake: Stake, cost: float, *, noise: float = 0.1, catching_up: float = 0.0):
        self.stake, self.cost, self.noise, self.catching_up = stake, cost, noise, catching_up
        self.random, self.unseen = np.random.default_rng(0), 0

    def answer(self, chance: float, tokens: int, prompt: int = 100) -> tuple[float, list[int]]:
        """Seconds for an answer, against those without guesses, and how much was guessed."""
        self.stake.begin()
        self.unseen, said, spent, counts = prompt, 0, 0.0, []
        while said < tokens:
            count = self.stake.choose()
            right = next((i for i in range(count) if self.random.random() > chance), count)
            seconds = (1 + self.cost * count) * (1 + self.noise * self.random.random())
            if count:
                seconds += self.catching_up * self.unseen
                self.unseen = 0
            self.unseen += 1 + right
            self.stake.learn(count, right, seconds)
            said, spent = said + 1 + right, spent + seconds
            counts.append(count)
        return spent / (said * (1 + self.noise / 2)), counts


def least(chance: float, cost: float) -> float:
    """Seconds for a token, with as many guesses as are best."""
    return min((1 + cost * n) / sum(chance**j for j in range(n + 1)) for n in range(9))


@pytest.mark.parametrize(
    ("chance", "cost"), [(0.95, 0.05), (0.9, 0.2), (0.7, 0.2), (0.5, 0.2), (0.2, 0.4), (0, 0.1)]
)
def test_it_finds_what_pays(chance, cost):
    assert Machine(Stake(), cost).answer(chance, 2_000)[0] < 1.06 * least(chance, cost)


@pytest.mark.parametrize(("chance", "cost"), [(0.0, 0.2), (0.2, 0.4), (0.3, 0.5)])
def test_guesses_that_do_not_pay_cost_little(chance, cost):
    machine = Machine(Stake(), cost, catching_up=0.01)
    machine.answer(chance, 64)
    again = [machine.answer(chance, 64)[0] for _ in range(20)]
    assert np.mean(again) < 1.08
    assert machine.answer(chance, 2_000)[0] < 1.04


def test_guesses_that_pay_are_worth_nearly_what_they_could_be():
    machine = Machine(Stake(), 0.2, catching_up=0.01)
    machine.answer(0.95, 64)
    found = np.mean([machine.answer(0.95, 64)[0] for _ in range(20)])
    assert found < 1.2 * least(0.95, 0.2)


def test_it_follows_a_text_that_changes():
    machine = Machine(Stake(), 0.2, catching_up=0.01)
    machine.answer(0.95, 200)
    assert np.mean(machine.answer(0.0, 100)[1][20:]) < 0.5
    machine.answer(0.0, 1_000)
    counts = machine.answer(0.95, 300)[1]
    assert np.mean(counts[-20:]) > 2


def test_a_machine_that_slows_down_changes_nothing():
    machine = Machine(Stake(), 0.2)
    machine.answer(0.9, 300)
    machine.noise = 9.0
    machine.answer(0.9, 30)
    machine.noise = 0.1
    assert np.mean(machine.answer(0.9, 100)[1]) > 1.5


def test_a_drafter_that_rarely_has_a_guess_is_asked_all_the_same():
    stake, asked = Stake(), []
    for i in range(300):
        asked.append(stake.choose())
        guessed = asked[-1] if i % 5 == 0 else 0
        stake.learn(guessed, guessed, 1 + 0.1 * guessed)
    assert np.mean(np.array(asked[100:]) > 0) > 0.9
