"""Parts that more than one architecture is made of. No block knows a model."""
