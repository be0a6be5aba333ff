"""The version of this library, said once in code; ``pyproject.toml`` says the same, and a test compares them."""

__version__ = "0.1.0"
