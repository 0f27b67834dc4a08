"""The command line: ``python -m nbconv COMMAND``. Each command is a module with `add_arguments` and `run`."""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from nbconv import __version__

__all__ = ["main"]

# Imported inside `main`, which knows what to do with a Ctrl-C in the meantime.
COMMANDS = {
    "upscale": "nbconv.examples.upscale",
    "count": "nbconv.count_command",
    "info": "nbconv.info_command",
    "warmup": "nbconv.warmup_command",
}
USAGE_ERROR, INTERRUPTED, BROKEN_PIPE = 2, 130, 141


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line: the usage stays in ``--help``."""

    def error(self, message: str) -> NoReturn:
        """Print the error on stderr and exit with status 2."""
        self.exit(USAGE_ERROR, f"{self.prog}: error: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    arguments
        What follows ``python -m nbconv``; None takes it from the process.

    Returns
    -------
    int
        The exit status: 0, 2 after an error that was reported in one line, 130 after Ctrl-C, 141 where whoever read
        the output has gone.

    Raises
    ------
    SystemExit
        After ``--help``, ``--version`` and errors of the command line itself.

    Examples
    --------
    >>> main(["--version"])
    Traceback (most recent call last):
    SystemExit: 0
    """
    try:
        args = _parse(sys.argv[1:] if arguments is None else arguments)
        status: int = args.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # What is still buffered must go somewhere, or the interpreter complains at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return status


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = OneLineParser(prog="nbconv", description="Channels-last convolutions for NumPy arrays.")
    parser.add_argument("--version", action="version", version=f"nbconv {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, path in COMMANDS.items():
        module = importlib.import_module(path)
        first, _, rest = (module.__doc__ or "").partition("\n")
        command = commands.add_parser(
            name,
            help=first[0].lower() + first[1:].rstrip("."),
            description=first,
            epilog=rest.strip().replace("``", ""),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    wrong = next((word for word in arguments[:1] if not word.startswith("-") and word not in COMMANDS), None)
    if wrong is not None:
        close = difflib.get_close_matches(wrong, COMMANDS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"commands: {', '.join(COMMANDS)}"
        parser.error(f"no command {wrong!r}; {hint}")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
