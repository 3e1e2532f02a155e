"""Vision: towers that turn pictures into rows of a model's stream, and where these rows stand."""
