"""How far to guess ahead: learnt from what guesses bring and cost."""

from dataclasses import dataclass, field

_START = 2  # guesses of the first rounds
_SOON, _SELDOM = 16, 64  # rounds from one trial of another count to the next
_WORTH = 1.05  # what guessing has to bring, as a multiple of what doing without brings
_SURE = 10  # rounds after which what a guess or a round was before counts for little


@dataclass
class _Mean:
    """A mean that forgets: of the latest values, about."""

    value: float
    count: int

    def learn(self, value: float, most: int) -> None:
        self.count = min(self.count + 1, most)
        self.value += (value - self.value) / self.count


@dataclass
class Stake:
    """How many tokens are worth guessing at once; it should stay with its model and drafter.

    Guessing k tokens brings 1 + a1 + a1 a2 + ... tokens, where aj is how often the j-th guess is
    right if those before it are. What brings most in a second is done, nothing where guesses do
    not pay; and now and then one more is tried, or none. Seconds of what was not tried are
    taken to lie on a line.
    """

    most: int = 8
    _asked: int = field(init=False, default=0)
    _before: int = field(init=False, default=0)  # what the round before was asked for
    _best: int = field(init=False, default=_START)
    _trial: int = field(init=False, default=0)  # rounds of a trial that are to come
    _since: int = field(init=False, default=0)  # rounds since the last one
    _pause: int = field(init=False, default=_SOON)
    _upwards: bool = field(init=False, default=False)  # whether the last one was of one more

    def __post_init__(self):
        self._right = [_Mean(0.7, 2) for _ in range(self.most)]
        self._seconds: dict[int, _Mean] = {}

    def begin(self) -> None:
        """A new answer, of other words: what guesses were worth before is believed less."""
        for right in self._right:
            right.count = min(right.count, 3)
        self._trial = self._asked = 0
        if self._best == 0:
            self._pause, self._since = max(_SOON, self._pause // 2), 0

    def choose(self) -> int:
        """How many tokens to guess in the next round."""
        self._before = self._asked
        if self._trial:
            self._trial -= 1
        else:
            self._asked = self._next()
        return self._asked

    def learn(self, guessed: int, right: int, seconds: float) -> None:
        """Account for a round that guessed so many tokens, of which the first few were right."""
        for j in range(min(guessed, right + 1)):
            self._right[j].learn(float(j < right), _SURE)
        if guessed > self._before:
            return  # its drafter also caught up on what it had not seen
        if guessed not in self._seconds:
            # What is new to caches is slow: the line has its say besides what is seen first.
            lies = len(self._seconds) > 1
            self._seconds[guessed] = _Mean(self._cost(guessed) if lies else seconds, int(lies))
        known = self._seconds[guessed]
        old = known.value
        known.learn(min(seconds, 2 * old), _SURE // 2)
        # What slows one kind of round slows the others, whose turn may be long in coming.
        for other in self._seconds.values():
            if other is not known:
                other.value *= (1 + known.value / old) / 2

    def _next(self) -> int:
        """The best count, or another for a trial of a few rounds: in the first it catches up."""
        if not self._seconds or max(self._seconds) == 0:
            return min(_START, self.most)
        if 0 not in self._seconds:
            self._trial = 1
            return 0
        best = max(range(min(max(self._seconds) + 1, self.most) + 1), key=self._rate)
        best = best if self._rate(best) > _WORTH * self._rate(0) else 0
        if (best == 0) != (self._best == 0):
            self._pause, self._since = _SOON, 0
        self._best = best
        self._since += 1
        if self._since < self._pause:
            return best
        self._since, self._pause = 0, min(2 * self._pause, _SELDOM)
        self._upwards = best == 0 or not self._upwards
        self._trial = 3 if self._upwards else 1
        return min(best + 1, self.most) if self._upwards else 0

    def _rate(self, count: int) -> float:
        """Tokens a second that guessing so many is worth."""
        brought, chance = 1.0, 1.0
        for right in self._right[:count]:
            chance *= right.value
            brought += chance
        return brought / self._cost(count)

    def _cost(self, count: int) -> float:
        """Seconds of a round, known or from the line through the nearest ones that are."""
        if count in self._seconds:
            return self._seconds[count].value
        known = sorted(self._seconds)
        above = next((i for i, k in enumerate(known) if k > count), len(known) - 1)
        low, high = known[above - 1], known[above]
        slope = (self._seconds[high].value - self._seconds[low].value) / (high - low)
        return self._seconds[low].value + max(slope, 0.0) * (count - low)
