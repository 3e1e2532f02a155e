"""Which tensor gets how many bits, and what that costs."""
