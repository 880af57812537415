"""The command ``normwise``, which ``python -m normwise`` is too.

Nothing is imported outside ``main``: Ctrl-C gets one line as its answer from the first moment on.
"""

import sys


def main() -> None:
    """Run the command line and end the process."""
    sys.unraisablehook = _unraisable
    try:
        from normwise.cli import main as program

        program(prog_name="normwise")
    except KeyboardInterrupt:
        _leave()


def _unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """Ctrl-C that came in a callback, where Python would print it and go on."""
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        _leave()
    sys.__unraisablehook__(unraisable)


def _leave() -> None:
    """End at once; nothing was begun."""
    import os

    try:
        os.write(2, b"normwise: interrupted.\n")
    finally:
        os._exit(130)


if __name__ == "__main__":
    main()
