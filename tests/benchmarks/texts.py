"""Long answers of each kind that is hard to draw; about four characters a token."""

TEXT = (
    "the model reads a prompt and writes one token after another while memory and time go by in "
    "steps of equal size until **nothing** more is to be said about `caches` or their keys"
)
WORDS = TEXT.split()


def prose(tokens):
    """Paragraphs of about sixty words."""
    words = [WORDS[i * 7 % len(WORDS)] + ("\n\n" if i % 60 == 59 else " ") for i in range(tokens)]
    return "".join(words)


def code(tokens):
    """One Python fence."""
    lines = []
    while 3 * sum(map(len, lines)) < 10 * tokens:
        n = len(lines)
        lines += [
            f"def step_{n}(state: dict[str, int], count: int = {n}) -> int:\n",
            f'    """Take {n} steps, and then some."""\n',
            f"    total = sum(state.get(f'key_{{i}}', 0) for i in range(count))  # not {n}\n",
            "    if total > 0.5 and not state:\n",
            "        return -1\n",
            "    return total * 2\n\n",
        ]
    return f"Here it is:\n\n```python\n{''.join(lines)}```\n\nThat is all."


def rows(tokens):
    """One list with a nested list in every tenth item."""
    items = []
    while 3 * sum(map(len, items)) < 10 * tokens:
        n = len(items)
        item = f"{n + 1}. Item **{n}** says `{WORDS[n % len(WORDS)]}` and goes on for a while\n"
        items.append(item + ("   - with a *nested* one\n   - or two\n" if n % 10 == 9 else ""))
    return f"The list:\n\n{''.join(items)}\nThat is all."


def table(tokens):
    """One table of four columns."""
    lines = ["| name | bytes | KL | remark |\n", "|---|---:|---:|---|\n"]
    while 3 * sum(map(len, lines)) < 8 * tokens:
        n = len(lines)
        lines.append(f"| layer {n} | {n * 997:,} | 0.0{n} | `{WORDS[n % len(WORDS)]}` it is |\n")
    return f"The table:\n\n{''.join(lines)}\nThat is all."


KINDS = {"prose": prose, "code": code, "list": rows, "table": table}


def pieces(text, size=4):
    """The text of each token."""
    return [text[i : i + size] for i in range(0, len(text), size)]
