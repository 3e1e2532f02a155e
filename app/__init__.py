"""The terminal chat, the offline assistant and the command line."""
