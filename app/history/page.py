"""A conversation as one HTML page: no script, nothing from elsewhere, light and dark."""

from base64 import b64encode
from html import escape

from markdown_it import MarkdownIt

from ..attachment import Image, pictures, told
from ..chat.transcript import plain
from .export import about, calls, remarks, speaker
from .images import Images
from .tree import Conversation, Message

STYLE = """
:root { color-scheme: light dark; --line: #d9d4cb; --soft: #6b665e; --you: #f4f0e8; }
@media (prefers-color-scheme: dark) {
  :root { --line: #3a3733; --soft: #a39c92; --you: #262320; }
  body { background: #1a1816; color: #ece7df; }
}
body { font: 16px/1.55 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem;
  overflow-wrap: anywhere; }
header, footer, .remarks, summary { color: var(--soft); font-size: .85rem; }
h1 { font-size: 1.5rem; margin: 0; }
h2 { font-size: .85rem; color: var(--soft); margin: 0 0 .3rem; }
article { margin: 1.5rem 0; }
article.user { background: var(--you); border-radius: .5rem; padding: .8rem 1rem; }
.said-plainly, .system { white-space: pre-wrap; }
.remarks { margin: .4rem 0 0; }
pre { background: var(--you); padding: .8rem; overflow-x: auto; border-radius: .4rem; }
code { font: .88em ui-monospace, monospace; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
td, th { border: 1px solid var(--line); padding: .25rem .6rem; }
blockquote { border-left: 3px solid var(--line); margin-left: 0; padding-left: 1rem; }
img { max-width: 100%; margin-top: .6rem; border-radius: .4rem; }
""".strip()
# A picture of an answer would be fetched from elsewhere, and tell there that somebody reads this.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_KINDS = {b"\x89PNG": "png", b"\xff\xd8": "jpeg", b"GIF8": "gif", b"RIFF": "webp", b"BM": "bmp"}


def page(conversation: Conversation, images: Images | None = None) -> str:
    """The branch that is shown; what was said is escaped, and answers are read as Markdown.

    Args:
        images: Where the pictures of questions are.
    """
    title = escape(plain(conversation.title))
    system = (
        f"<details><summary>System prompt</summary>"
        f'<p class="system">{escape(plain(conversation.system))}</p></details>\n'
        if conversation.system
        else ""
    )
    body = "\n".join(_article(conversation, message, images) for message in conversation.thread())
    return f"""<!doctype html>
<html lang="">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="mlxarch">
<title>{title}</title>
<style>
{STYLE}
</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p>{escape(about(conversation))}</p>
{system}</header>
<main>
{body}
</main>
</body>
</html>
"""


def _article(conversation: Conversation, message: Message, images: Images | None) -> str:
    parts = [f"<h2>{escape(speaker(message))}</h2>"]
    if message.thinking:
        thinking = escape(plain(message.thinking))
        parts.append(
            "<details><summary>Thinking</summary>"
            f'<div class="said-plainly">{thinking}</div></details>'
        )
    if message.role == "user":
        parts.append(f'<div class="said-plainly">{escape(plain(told(message.content)))}</div>')
        parts += [_picture(one, images) for one in pictures(message.content) if images is not None]
    else:
        parts.append(_rendered(plain(message.content)))
    for call in calls(message):
        asked = escape(plain(f"{call.get('name')} {call.get('arguments')}"))
        parts.append(f"<pre><code>{asked}</code></pre>")
    if figures := remarks(conversation, message):
        parts.append(f'<p class="remarks">{escape(figures)}</p>')
    role = "user" if message.role == "user" else "assistant"
    return f'<article class="{role}">\n' + "\n".join(parts) + "\n</article>"


def _picture(image: Image, images: Images) -> str:
    """A picture, if it is still there."""
    try:
        raw = images.path(image.sha256).read_bytes()
    except OSError:
        return ""
    kind = next((kind for start, kind in _KINDS.items() if raw.startswith(start)), "png")
    data = b64encode(raw).decode()
    return f'<img alt="{escape(plain(image.name))}" src="data:image/{kind};base64,{data}">'


def _rendered(text: str) -> str:
    reader = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    return reader.disable("image").render(text).rstrip()
