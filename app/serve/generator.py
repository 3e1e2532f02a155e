"""Mlx-lm's generator with a model of ours: one thread loads it and computes."""

from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from mlxarch import backend, checkpoint, kv, registry, shards
from mlxarch.blocks.attention import Attention
from mlxarch.compat import server
from mlxarch.constrain import Constraint
from mlxarch.errors import ContextFull, FormatError
from mlxarch.sampling import generation_config, recommended
from mlxarch.tokenizer import Tokenizer

from ..loading import needed
from .schema import Masked

_SEQUENCES = 16  # prompts that are kept for those that begin alike
_OPENING = 12  # tokens that may open an answer
_ROOM = 4  # of the memory that weights leave, the part that they may take


class Provider(server.ModelProvider):
    """Has one model, whatever it is asked for.

    Args:
        kv_bits: 8 or 4 for keys and values, where that can be; None keeps them as they are.
    """

    def __init__(self, folder: Path, kv_bits: int | None = None):
        self.folder, raw = folder, shards.read_config(folder)
        self.kv_bits = kv_bits
        self.context: int = registry.find(raw).model.Config.from_hub(raw).context
        self.room = (backend.memory_limit() - needed(folder)) // _ROOM
        defaults = recommended(generation_config(folder))
        super().__init__(
            Namespace(
                model=str(folder),
                adapter_path=None,
                draft_model=None,
                num_draft_tokens=0,
                pipeline=False,
                trust_remote_code=False,
                chat_template="",
                chat_template_args={},
                use_default_chat_template=False,
                temp=defaults.get("temperature", 0.0),
                top_p=defaults.get("top_p", 1.0),
                top_k=defaults.get("top_k", 0),
                min_p=defaults.get("min_p", 0.0),
                max_tokens=self.context,
                decode_concurrency=32,
                prompt_concurrency=8,
                prefill_step_size=512 if backend.device() == "CPU" else 2048,
                prompt_cache_bytes=self.room,
                kv_bits=None,
                kv_group_size=64,
                quantized_kv_start=0,
                allowed_origins=[],
            )
        )

    def load(self, *_: Any, **__: Any) -> tuple[Any, Any]:
        """The model and its tokenizer, in the thread that will use them."""
        if self.model is None:
            tokenizer, model = Tokenizer(self.folder), checkpoint.load(self.folder)
            # Mlx-lm's own bits are of another cache, which is for one request at a time.
            vars(model)["make_cache"] = partial(model.make_cache, self.kv_bits)
            self.model_key = (str(self.folder), None, None)
            # Latent attention and recurrent states know nothing of rows that begin later.
            self.is_batchable = all(isinstance(b.mixer, Attention) for b in model.layers)
            # Mlx-lm would tell a template to think whose publisher has it not to.
            defaults = {name: values[0] for name, values in tokenizer.switches.items()}
            self.cli_args.chat_template_args = defaults
            self.own, self.vocab = tokenizer, model.embed.weight.shape[0]
            self.tokenizer, self.model = tokenizer.wrapped, model
        return self.model, self.tokenizer


class Prompts(server.LRUPromptCache):
    """What was read before; the last token of a prompt is always read, for its logits."""

    def fetch_nearest_cache(self, model: Any, tokens: list[int]) -> tuple[Any, list[int]]:
        """A copy of the caches for the beginning of a prompt, and the rest of it."""
        cache, rest = super().fetch_nearest_cache(model, tokens[:-1])
        return cache, [*rest, *tokens[-1:]]


def _processors(args: Any, make: Callable[[Any], list[Any]]) -> list[Any]:
    """Mlx-lm's processors of logits, and what keeps an answer to a schema."""
    masked = vars(args.logits).pop("masked", None)
    return [*make(args), *([masked] if masked else [])]


class Generator(server.ResponseGenerator):
    """Answers requests: several at once where the model's caches allow it."""

    def __init__(self, folder: Path, kv_bits: int | None = None):
        self.provider = Provider(folder, kv_bits)
        self.loaded = Event()  # or failed
        self.failure: Exception | None = None
        # On Metal mlx-lm would wire memory, which has taken machines down.
        server.stream_generate.__globals__["maybe_set_recommended_wired_limit"] = lambda: None
        make = server._make_logits_processors
        server._make_logits_processors = partial(_processors, make=make)
        super().__init__(self.provider, Prompts(_SEQUENCES, self.provider.room))

    @property
    def context(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self.provider.context

    @property
    def remark(self) -> str:
        """What of the loaded model's caches is not kept in few bits, in a sentence."""
        model, bits = self.provider.load()[0], self.provider.kv_bits
        return kv.remark(model.make_cache(), bits) if bits else ""

    @property
    def tokenizer(self) -> Any:
        """Mlx-lm's wrapper of the model's tokenizer."""
        return self.provider.tokenizer

    def generate(
        self,
        request: Any,
        generation_args: Any,
        progress_callback: Callable[[int, int], None] | None = None,
    ) -> tuple[Any, Iterator[Any]]:
        """What belongs to an answer, and its pieces as they come.

        Raises: Exception for whatever is wrong with the request.
        """
        # Mlx-lm looks for a stop text's own tokens, and it may be said in others.
        stops, generation_args.stop_words = generation_args.stop_words, []
        vars(generation_args.logits)["schema"] = vars(request).get("schema")
        context, pieces = super().generate(request, generation_args, progress_callback)
        pieces = _until(stops, context, pieces) if stops else pieces
        logprobs = vars(request)["logprobs"]
        return context, logprobs.noted(pieces) if logprobs else pieces

    def _run_generate(self) -> None:
        try:
            self.provider.load()
            self.loaded.set()
            self._generate()
        except Exception as error:
            self.failure = error
            self._generation_failed = True
        finally:
            self.loaded.set()

    def _tokenize(self, tokenizer: Any, request: Any, args: Any) -> Any:
        found = super()._tokenize(tokenizer, request, args)
        if not (count := len(found[0])):
            raise FormatError("The prompt is empty; say something.")
        if (room := self.context - count) < 1:
            raise ContextFull(
                f"The prompt has {count:,} tokens; the model's context holds {self.context:,}. "
                "Shorten it."
            )
        args.max_tokens = min(args.max_tokens, room)
        if (schema := vars(args.logits).pop("schema", None)) is not None:
            own = self.provider.own
            constraint = Constraint(
                schema,
                own,
                self.provider.vocab,
                thinking=found[3] == "reasoning",
                opening=found[0][-_OPENING:],
            )
            vars(args.logits)["masked"] = Masked(constraint, own.stop_ids)
        return found


def _until(stops: list[str], context: Any, pieces: Iterator[Any]) -> Iterator[Any]:
    """Pieces of an answer until one of some texts is said, which is no part of it.

    What may turn out to be its beginning is held back. Thinking is not looked at.
    """
    machine = server.TextStateMachine
    state, held = context.text_sm.make_state(context.initial_state), ""
    for piece in pieces:
        state, segments = machine.split(state, piece.text)
        if any(place != "normal" for place, _ in segments):
            yield replace(piece, text=held + piece.text)
            held = ""
            continue
        text = held + piece.text
        found = [at for stop in stops if (at := text.find(stop)) >= 0]
        if found:
            context.stop()
            yield replace(piece, text=text[: min(found)], finish_reason=None)
            yield replace(piece, text="", finish_reason="stop")
            return
        held = "" if piece.finish_reason else _beginning(text, stops)
        yield replace(piece, text=text[: len(text) - len(held)])


def _beginning(text: str, stops: list[str]) -> str:
    """The longest end of a text that one of some others begins with."""
    return max(
        (stop[:n] for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])),
        key=len,
        default="",
    )
