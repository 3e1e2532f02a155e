"""What the engine does: load a checkpoint, answer conversations. All of it in one thread."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from time import perf_counter

import mlx.core as mx

from mlxarch import backend, checkpoint, kv, registry, shards
from mlxarch.cache import Past
from mlxarch.compat import count_parameters
from mlxarch.decoder import Decoder
from mlxarch.errors import ConfigError, DoesNotFit, FormatError
from mlxarch.kept import Kept, fingerprint
from mlxarch.pace import Pace
from mlxarch.sampling import generation_config, recommended
from mlxarch.speculate import Lookup
from mlxarch.stake import Stake
from mlxarch.tokenizer import Tokenizer
from mlxarch.vision.sight import Sight

from .. import model as models
from ..loading import check_same_tokens, needed
from .answers import respond
from .loaded import Loaded
from .protocol import Command, Event, Generate, Load, Loading, Ready
from .watch import Watch, give_back

Emit = Callable[[Event], None]

_SHARE = 16  # of the memory, one part may go to marks, and one to other branches

# Seconds between two times that what was read is saved, at least, and without a command to rest.
_EVERY, _IDLE = 30.0, 3.0


class Worker:
    """Carries out commands in the thread that made it; that thread owns MLX."""

    def __init__(self, emit: Emit, stopped: Callable[[int], bool]):
        self._emit, self._stopped = emit, stopped
        self._loaded: Loaded | None = None
        self._saved = float("-inf")  # when
        self._worked = False  # since the last rest

    def handle(self, command: Command) -> None:
        """Carry out a `Load` or `Generate`; the others are not for a worker.

        Raises: MlxarchError in place of what was left to do.
        """
        self._worked = True
        if isinstance(command, Load):
            self._load(command, Path(command.path))
        elif isinstance(command, Generate):
            if self._loaded is None:
                raise ConfigError("No model is loaded; load one first.")
            respond(self._loaded, command, self._emit, lambda: self._stopped(command.id))

    @property
    def saves(self) -> bool:
        """Whether what was read is kept for a later run."""
        return self._loaded is not None and self._loaded.kept is not None

    @property
    def patience(self) -> float | None:
        """Seconds without a command after which to `rest`; None: however many."""
        return _IDLE if self._worked or self.saves else None

    def rest(self) -> None:
        """Return memory that is not in use, once, and save what is to be kept for a later run.

        An answer may begin while it is written.
        """
        if self._worked:
            self._worked = False
            give_back()
            if self._loaded is not None:
                self._emit(self._loaded.memory())
        if perf_counter() - self._saved >= _EVERY:
            self._save()

    def close(self) -> None:
        """Save what is to be kept for a later run, and wait until it is."""
        if self._loaded is not None and self._loaded.kept is not None:
            self._loaded.kept.finish()
            self._save()
            self._loaded.kept.finish()

    def _save(self) -> None:
        kept = None if self._loaded is None else self._loaded.kept
        if self._loaded is not None and kept is not None and kept.save(self._loaded.past):
            self._saved = perf_counter()

    def _load(self, command: Load, folder: Path) -> None:
        began, draft = perf_counter(), command.draft or "heads"
        smaller = None if draft in models.WITHOUT_MODEL else Path(draft)
        self.close()
        # There may not be room for two.
        self._loaded = None
        give_back()
        mx.reset_peak_memory()
        raw = shards.read_config(folder)
        architecture = registry.find(raw)
        total, watch = needed(folder, smaller, limit=command.memory), Watch(command.memory)
        if command.wired is not None:
            backend.keep_resident(command.wired)
        self._emit(Loading(path=str(folder), done=0, total=total))
        tokenizer = Tokenizer(folder)
        if smaller is not None:
            check_same_tokens(smaller, folder, tokenizer)
        model = self._read(folder, heads=draft == "heads")
        if draft == "heads" and not model.mtp:
            draft = "off"
        past = None if smaller is None else Past(self._read(smaller, heads=False))
        defaults = recommended(generation_config(folder))
        sight, blind = _sight(folder)
        loaded = self._loaded = Loaded(
            model,
            tokenizer,
            Past(model, command.kv_bits, watch.limit // _SHARE),
            Pace(),
            past or (Lookup() if draft == "lookup" else draft),
            Stake(),
            context=architecture.model.Config.from_hub(raw).context,
            defaults=defaults,
            bytes=_bytes(model) + (_bytes(past.model) if past else 0),
            watch=watch,
            kept=_kept(command, folder),
            sight=sight,
            blind=blind,
        )
        watch.settle(loaded.bytes)
        watch.shed = loaded.shed
        if watch.room < 0:
            self._loaded = None
            raise DoesNotFit(
                f"With {models.name(folder)} loaded the engine takes {watch.used / 1e9:.2f} GB; it "
                f"may take {watch.limit / 1e9:.2f} GB. Allow more, or choose a smaller model."
            )
        self._emit(
            Ready(
                name=models.name(folder),
                architecture=architecture.name,
                parameters=count_parameters(model),
                bytes=loaded.bytes,
                context=loaded.context,
                device=backend.device(),
                seconds=perf_counter() - began,
                remark=_remark(loaded, command),
                draft=draft if smaller is None else models.name(smaller),
                defaults=defaults,
                switches=[
                    {"name": name, "values": values} for name, values in tokenizer.switches.items()
                ],
                thinks=tokenizer.thinks,
                tools=tokenizer.call_markers is not None,
                images=sight is not None,
                scale=asdict(sight.scale) if sight else {},
                blind=blind,
            )
        )
        self._emit(loaded.memory())

    def _read(self, folder: Path, *, heads: bool) -> Decoder:
        remark = "Building the CPU's kernels, this once" if backend.to_be_built() else ""

        def progress(done: int, total: int) -> None:
            self._emit(Loading(path=str(folder), done=done, total=total, remark=remark))

        return checkpoint.load(folder, progress=progress, heads=heads)


def _sight(folder: Path) -> tuple[Sight | None, str]:
    """What a model sees with, or why it sees nothing."""
    try:
        return Sight(folder, models.name(folder)), ""
    except (ConfigError, FormatError) as error:
        return None, str(error)


def _kept(command: Load, folder: Path) -> Kept | None:
    """What was read of this checkpoint in runs before, if it is to be kept."""
    if command.keep is None or command.keep_bytes < 1:
        return None
    return Kept(Path(command.keep), command.keep_bytes, fingerprint(folder, command.kv_bits))


def _bytes(model: Decoder) -> int:
    """Bytes of a model's weights."""
    return sum(array.nbytes for array in checkpoint.parameters(model).values())


def _remark(loaded: Loaded, command: Load) -> str:
    """What could not be done as it was asked."""
    found = []
    if command.draft == "heads" and loaded.draft == "off":
        found.append(
            "No tokens are guessed ahead: this checkpoint has no heads of its own for that; "
            "lookup and a smaller model need none."
        )
    if command.wired is not None and backend.device() != "Metal":
        found.append(f"Memory can be wired on Metal only, and this is {backend.device()}.")
    if command.kv_bits:
        found.append(kv.remark(loaded.past.caches, command.kv_bits))
    return " ".join(filter(None, found))
