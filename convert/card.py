"""The README.md of a converted checkpoint."""

from typing import Any

from mlxarch import __version__
from mlxarch.quantize.scheme import Scheme

from .inventory import Inventory

_KEPT = ("license", "license_name", "license_link", "language")


def write(source: Inventory, scheme: Scheme | None, dtype: str | None) -> str:
    """A short model card; the licence stays what the source's card says."""
    from huggingface_hub import ModelCardData

    head: dict[str, Any] = {key: source.card[key] for key in _KEPT if key in source.card}
    if source.repo:
        head["base_model"] = source.repo
    data = ModelCardData(**head, library_name="mlx", pipeline_tag="text-generation", tags=["mlx"])
    title = source.name.rsplit("/", 1)[-1]
    origin = f"[{source.repo}](https://huggingface.co/{source.repo})" if source.repo else f"{title}"
    how = [text for text in (dtype, str(scheme) if scheme else None) if text]
    return (
        f"---\n{data.to_yaml()}\n---\n\n# {title}\n\n"
        f"{origin} in the MLX community's format{''.join(f', {text}' for text in how)}; "
        f"converted with mlxarch {__version__}.\n\n"
        "```bash\nmlxarch chat path/to/this/folder\n```\n\nmlx-lm loads it as well.\n"
    )
