"""An OpenAI-compatible endpoint: mlx-lm's server, with models and manners of ours."""
