"""Processes that may crash, hang or run out of memory without taking the search with them."""
