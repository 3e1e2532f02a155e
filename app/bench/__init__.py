"""How quick a model is here, beside mlx-lm if asked: runs that take turns, and their table."""
