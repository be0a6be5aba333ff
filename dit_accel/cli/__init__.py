"""The command line. Only here does the project print. ``main`` is the console script ``dit-accel``."""


def main() -> None:
    """Run the command line."""
    from dit_accel.cli.app import app

    app()
