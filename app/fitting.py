"""What a model is made of, for `fit`: from its headers, its config or the catalogue."""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from mlxarch import shards
from mlxarch.anatomy import Anatomy, examine
from mlxarch.convert import download, hub, inventory, plan, store
from mlxarch.convert.inventory import Inventory
from mlxarch.errors import CheckpointError, ConfigError, FormatError, HubError, MlxarchError
from mlxarch.files import local
from mlxarch.quantize.recipes import Recipe
from mlxarch.vision.sight import is_tower

from . import catalogue
from . import model as models
from .fit import Cache, Form, Model, activations, in_4_bits, plain

LM_STUDIO = Path.home() / ".lmstudio" / "models"
_FLOATS = ("BF16", "F16", "F32")


def look(model: str | None, revision: str | None = None, offline: bool = False) -> Model:
    """A model in the forms it is here in, can be had in or can be made into.

    Args:
        model: A folder, a config.json or a repository; None is the guide. Of a repository that is
            not in the hub's cache nothing but headers is fetched; where the hub does not answer the
            catalogue tells what it knows, and the model says why.

    Raises: HubError, ConfigError, CheckpointError, FormatError.
    """
    path = models.resolve(None) if model is None else local(model)
    if os.path.isfile(path):
        raw = shards.read_config(path)
        name = path.stem if path.name != "config.json" else path.parent.name
        return _from_config(name, examine(raw))
    if os.path.isdir(path):
        return _from_folder(models.name(path), path)
    assert model is not None
    try:
        folder = download.resolve(model, revision=revision, offline=True)
        return _from_folder(model, folder)
    except (HubError, CheckpointError):
        pass  # not here, or not wholly
    if not (offline or hub.is_offline()):
        try:
            known = _from_headers(model, inventory.look_afar(model, revision=revision))
            first, *made = known.forms
            return replace(known, forms=(replace(first, repo=model), *made))
        except hub.NotFoundError:
            raise
        except HubError as error:
            if (known := catalogue.find(model)) is None:
                raise error
            return replace(known, reason=str(error))
    if (known := catalogue.find(model)) is not None:
        return replace(known, reason=f"mlxarch is offline, so nobody was asked about {model}.")
    hub.check_name(model)
    raise HubError(
        f"{model} is not, or not wholly, in the hub's cache nor in the catalogue, and mlxarch is "
        "offline; "
        "run once without --offline and HF_HUB_OFFLINE, or give its config.json."
    )


def here() -> list[Model]:
    """What can be run at once: the guide, the hub's cache, LM Studio's models, folders here."""
    guide, found = models.resolve(None), []
    for name, folder in [(models.name(guide), guide), *_folders()]:
        try:
            one = _from_folder(name, folder)
        except MlxarchError:
            continue  # `mlxarch models` and `mlxarch show` say what is wrong with it
        found.append(replace(one, forms=one.forms[:1]))
    return found


def _folders() -> Iterator[tuple[str, Path]]:
    """Names and folders of checkpoints; those of the hub's cache as far as they are whole."""
    for one in store.look().models:
        if one.family and not one.missing and not one.damage:
            with suppress(HubError):
                yield one.repo, download.resolve(one.repo, offline=True)
    for base, pattern in ((LM_STUDIO, "*/*"), (Path(), "*")):
        for folder in sorted(base.glob(pattern)):
            if (folder / "config.json").is_file() and any(folder.glob("model*.safetensors")):
                yield folder.relative_to(base).as_posix(), folder


def _from_folder(name: str, folder: Path) -> Model:
    if not any(folder.glob("model*.safetensors")):
        return _from_config(name, examine(shards.read_config(folder)))
    return replace(_from_headers(name, inventory.look(folder)), folder=str(folder.resolve()))


def _from_config(name: str, anatomy: Anatomy) -> Model:
    known = _model(name, anatomy, plain(anatomy), in_4_bits(anatomy))
    return replace(known, source="config")


def _from_headers(name: str, source: Inventory) -> Model:
    """A model whose tensors are known; in 4 bits too, where nobody has packed it yet."""
    anatomy = examine(source.raw)
    disk = sum(source.shards.values())
    forms = [_form(anatomy.quantization or _type(source), anatomy, plan.make(source), disk)]
    if "quantization" not in source.raw:
        try:
            packed = plan.make(source, recipe=Recipe())
        except (CheckpointError, ConfigError, FormatError):
            packed = None  # rows that no group divides
        if packed is not None:
            forms.append(_form("4 bits", anatomy, packed, packed.bytes_out))
    seen = any(map(is_tower, source.tensors))
    return replace(_model(name, anatomy, *forms), vision=seen * anatomy.vision.parameters)


def _form(name: str, anatomy: Anatomy, planned: plan.Plan, disk: int) -> Form:
    """What a plan's tensors take once they are loaded; towers for pictures are not."""
    parts = [
        part
        for output in planned.outputs
        if not output.name.startswith("vision.")
        for part in output.parts
    ]
    packed = sum(part.bytes for part in parts if part.dtype not in _FLOATS)
    floats = sum(
        part.bytes // (4 if part.dtype == "F32" else 2) for part in parts if part.dtype in _FLOATS
    )
    return Form.of(name, anatomy, floats, packed, disk)


def _type(source: Inventory) -> str:
    """The type that most of a source is in: "bf16"."""
    sizes: dict[str, int] = {}
    for info in source.tensors.values():
        sizes[info.dtype] = sizes.get(info.dtype, 0) + info.bytes
    return max(sizes, key=lambda dtype: sizes[dtype]).lower()


def _model(name: str, anatomy: Anatomy, *forms: Form) -> Model:
    return Model(
        name=name,
        family=anatomy.architecture,
        parameters=anatomy.total.parameters,
        active=anatomy.active.parameters,
        context=anatomy.context,
        cache=Cache.of(anatomy),
        activations=activations(anatomy),
        forms=forms,
        vision=anatomy.vision.parameters,
    )
