"""Hub checkpoints become MLX checkpoints."""
