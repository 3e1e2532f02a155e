"""Models' tensors as mlx-lm names them, of which nothing is computed."""

from functools import cache

from test_released_configs import config

from mlxarch import checkpoint, registry
from mlxarch.names import rules


def in_mlx_lm_s_spelling(raw, built):
    """A model's tensors as mlx-lm names them, and its architecture."""
    architecture = registry.find(raw)
    table = architecture.names.table(architecture.model.Config.from_hub(raw))
    return architecture, rules.translate(rules.inverse(table), checkpoint.parameters(built))


@cache
def real_shapes(name):
    """The tensors of a released model, of which nothing is computed."""
    raw = config(name)
    port = registry.find(raw).model
    architecture, weights = in_mlx_lm_s_spelling(raw, port.build(port.Config.from_hub(raw)))
    return architecture, {name: weight.shape for name, weight in weights.items()}
