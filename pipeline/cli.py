"""The command line (written out in full later in this change)."""


def main() -> None:
    """Placeholder while the first modules land."""
