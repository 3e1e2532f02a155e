"""The built-in guide: a small model that knows mlxarch."""
