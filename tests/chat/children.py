"""Commands that only tell what a test lets them tell."""

MODEL = {
    "model": "Trinity Mini",
    "family": "Trinity",
    "repo": "mlx-community/Trinity-Mini-4bit",
    "folder": "",
    "form": "4 bits",
    "parameters": 26_123_974_400,
    "active": 3_064_739_584,
    "disk": 14_706_437_632,
    "weights": 16_355_000_000,
    "cache": 1_275_068_416,
    "working": 73_400_320,
    "together": 17_703_468_736,
    "memory": 25_300_000_000,
    "verdict": "fits",
    "context": 32_768,
    "at_most_tokens_per_second": 11.2,
    "bandwidth": 38_000_000_000,
    "suggested": True,
    "here": False,
}
HERE = {
    **MODEL,
    "model": "Nanbeige/Nanbeige4.1-3B",
    "family": "Nanbeige 4.1",
    "repo": "",
    "folder": "/cache/nanbeige",
    "form": "bf16",
    "parameters": 3_933_637_120,
    "active": 3_508_308_480,
    "disk": 7_867_274_240,
    "weights": 15_734_548_480,
    "verdict": "tight",
    "at_most_tokens_per_second": 2.1,
    "here": True,
}
LARGE = {
    **MODEL,
    "model": "Kimi K2.5",
    "family": "Kimi K2.5",
    "repo": "moonshotai/Kimi-K2.5",
    "form": "INT4",
    "parameters": 1_026_408_232_448,
    "active": 31_687_095_808,
    "disk": 595_147_639_776,
    "weights": 807_903_352_832,
    "together": 813_000_000_000,
    "verdict": "too large",
    "here": False,
}
BF16 = {
    **MODEL,
    "repo": "arcee-ai/Trinity-Mini",
    "form": "bf16",
    "disk": 52_247_948_800,
    "weights": 104_495_897_600,
    "together": 106_000_000_000,
    "verdict": "too large",
    "suggested": False,
}


class Children:
    """Starts nothing; `fit` tells of some models at once, everything else waits for the test."""

    def __init__(self, *models):
        self.models = models or (HERE, BF16, MODEL, LARGE)
        self.started = []

    def __call__(self, arguments, take, ended):
        child = FakeChild(arguments, take, ended)
        self.started.append(child)
        if arguments[:2] == ["fit", "--json"]:
            child.tell(*self.models)
            child.end()
        return child

    def of(self, *words):
        """The last command that began with these words."""
        return [c for c in self.started if list(c.arguments[: len(words)]) == list(words)][-1]


class FakeChild:
    def __init__(self, arguments, take, ended):
        self.arguments, self.take, self.ended, self.stopped = arguments, take, ended, False

    def tell(self, *lines):
        for line in lines:
            self.take(line)

    def end(self, code=0, words=""):
        self.ended(code, words)

    def stop(self):
        self.stopped = True
