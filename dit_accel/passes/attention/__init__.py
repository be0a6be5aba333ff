"""Passes that compute only a part of the attention scores, each in a file of its own."""
