"""The blocks' mathematics again, one token at a time, without kernels or caches.

These are the specification that tests hold the blocks to; nothing else imports them.
"""
