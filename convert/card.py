"""The README.md of a converted checkpoint."""

import re
from collections.abc import Mapping
from typing import Any

from mlxarch import __version__
from mlxarch.quantize import report
from mlxarch.quantize.recipes import Recipe
from mlxarch.words import size

from .inventory import Inventory

NAME = "README.md"

_KEPT = ("license", "license_name", "license_link", "language")
# What `with_report` fills in.
_SECTION = """## Quality

![Divergence from the original, and the bits that each part takes]({picture})

| | |
|---|---|
| perplexity ratio | {perplexity_ratio:.4f} ± {perplexity_ratio_standard_error:.4f} \
({original_perplexity:.4g} to {perplexity:.4g}) |
| mean KL | {mean_kl:.4f} ± {mean_kl_standard_error:.4f} nats |
| median, 90%, 99% KL | {median_kl:.4f}, {kl_90:.4f}, {kl_99:.4f} nats |
| top-1 agreement | {top1_agreement:.1%} ± {top1_agreement_standard_error:.1%} |
| size | {size}, from {original_size} |
| bits per weight | {bits_per_weight:.2f} |
| recipe | {recipe} |
| source | {origin} |
| made by | {tools} |

Both models read {tokens:,} tokens of {text}, and were compared at {positions:,} positions, in \
float32. ± is a standard error. All figures, and the hashes of all files, are in {json}.
"""


def write(source: Inventory, recipe: Recipe | None, dtype: str | None) -> str:
    """A short model card; the licence stays what the source's card says."""
    from huggingface_hub import ModelCardData

    head: dict[str, Any] = {key: source.card[key] for key in _KEPT if key in source.card}
    if source.repo:
        head["base_model"] = source.repo
    data = ModelCardData(**head, library_name="mlx", pipeline_tag="text-generation", tags=["mlx"])
    title = source.name.rsplit("/", 1)[-1]
    origin = f"[{source.repo}](https://huggingface.co/{source.repo})" if source.repo else f"{title}"
    how = [text for text in (dtype, str(recipe) if recipe else None) if text]
    return (
        f"---\n{data.to_yaml()}\n---\n\n# {title}\n\n"
        f"{origin} in the MLX community's format{''.join(f', {text}' for text in how)}; "
        f"converted with mlxarch {__version__}.\n\n"
        "```bash\nmlxarch chat path/to/this/folder\n```\n\nmlx-lm loads it as well.\n"
    )


def with_report(readme: str, found: Mapping[str, Any]) -> str:
    """A model card that says what was measured; an older section on it is replaced.

    Args:
        found: The report, as quality.json has it.
    """
    section = _SECTION.format(
        # A regular expression in a recipe may hold what divides the columns of a table.
        **{**found, "recipe": found["recipe"].replace("|", r"\|")},
        picture=report.PICTURE,
        json=report.NAME,
        size=size(found["bytes"]),
        original_size=size(found["original_bytes"]),
        origin=_origin(found["source"]),
        tools=", ".join(f"{tool} {version}" for tool, version in found["made_by"].items()),
    )
    readme = re.sub(r"\n## Quality\n.*?(?=\n## |\Z)", "", readme, flags=re.DOTALL)
    return f"{readme.rstrip()}\n\n{section}"


def _origin(source: Mapping[str, Any]) -> str:
    name = source["repo"] or source["name"]
    return f"{name}, revision {source['revision']}" if source["revision"] else name
