"""The engine: a child process in which one thread owns MLX, spoken to over pipes."""
