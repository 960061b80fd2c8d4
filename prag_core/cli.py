"""Command line: `prag parametrize | answer | evaluate | store | models | demo | bench`.

Every option is a parameter of the command's function (commands.py) or a field of `Setup`
(build.py), and may stand in a YAML file given with --config.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence

import transformers
from jsonargparse import ArgumentParser

from prag_core import bench, commands, demo
from prag_core.build import Setup

COMMANDS = {
    "parametrize": commands.parametrize,
    "answer": commands.answer,
    "evaluate": commands.evaluate,
    "store": commands.store,
    "models": commands.models,
    "demo": demo.demo,
    "bench": bench.bench,
}


def build_parser() -> ArgumentParser:
    """Build the parser: one subcommand a function, `Setup` flattened into those that take it."""
    parser = ArgumentParser(
        prog="prag", description=sys.modules["prag_core"].__doc__.split("\n")[0]
    )
    subcommands = parser.add_subcommands(required=True, dest="command")
    for name, function in COMMANDS.items():
        subparser = ArgumentParser(description=inspect.getdoc(function).split("\n")[0])
        subparser.add_argument("--config", action="config", help="YAML file with any of these")
        subparser.add_function_arguments(function, skip={"setup"}, as_positional=True)
        if "setup" in inspect.signature(function).parameters:
            subparser.add_class_arguments(Setup)
        subcommands.add_subcommand(name, subparser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (2 for bad input, 130 for Ctrl-C)."""
    parser = build_parser()
    parsed = parser.instantiate_classes(parser.parse_args(arguments))
    function = COMMANDS[parsed.command]
    options = dict(vars(parsed[parsed.command]))
    options.pop("config", None)
    if "setup" in (names := inspect.signature(function).parameters):
        setup = Setup(**{key: value for key, value in options.items() if key not in names})
        options = {key: value for key, value in options.items() if key in names} | {"setup": setup}
    transformers.logging.disable_progress_bar()
    try:
        function(**options)
    except (ValueError, OSError, KeyError) as error:
        print(f"prag {parsed.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
