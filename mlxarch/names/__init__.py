"""How each architecture's tensors are spelled on the hub, by mlx-lm and here.

A table has two parts. `from_hub(config)` brings the hub's tensors into the form that the MLX
community stores (drop, stack, split ...); `table(config)` renames that form into this library's
paths, and backwards. Rules whose source is absent do nothing, so both also read a checkpoint that
is already in the later form.
"""
