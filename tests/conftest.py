"""Shared by all tests."""

from hypothesis import settings

# The same examples every time, and no deadline: the first call of a torch kernel can take half a second.
settings.register_profile("book", deadline=None, derandomize=True)
settings.load_profile("book")
