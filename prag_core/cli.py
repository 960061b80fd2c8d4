"""Command line: `prag parametrize | answer | evaluate | demo | ...`, see COMMANDS.

Every option is a parameter of the command's function (commands.py) or a field of `Setup`
(build.py), and may stand in a YAML file given with --config.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields

import docstring_parser
import transformers
from jsonargparse import ArgumentParser

from prag_core.commands import demo, serve
from prag_core.commands import shared as commands
from prag_core.commands.compare import compare
from prag_core.commands.evaluate import evaluate
from prag_core.model.hardware import is_out_of_memory
from prag_core.pipeline.parts import Setup
from prag_core.speed import run as bench

COMMANDS = {
    "parametrize": commands.parametrize,
    "warmup": commands.warmup,
    "answer": commands.answer,
    "evaluate": evaluate,
    "compare": compare,
    "store": commands.store,
    "models": commands.models,
    "demo": demo.demo,
    "bench": bench.bench,
    "serve": serve.serve,
}
# Fields of `Setup` that a command does not read, and so does not offer.
UNREAD = {
    "demo": {"path"},
    "compare": {"path"},
    "serve": {"generation", "answering"},
}
HINT = (
    "got a batch that exceeds memory, expected one that fits: lower --generation.batch_size, "
    "--training.tokens_per_batch or --training.documents_per_batch, and run the command again; "
    "what is finished is kept"
)
DEFAULTS = {"serve": {"path": "generated"}}  # where a command's differ from those of `Setup`


def build_parser() -> ArgumentParser:
    """Build the parser: one subcommand a function, `Setup` flattened into those that take it."""
    parser = ArgumentParser(
        prog="prag", description=sys.modules["prag_core"].__doc__.split("\n")[0]
    )
    subcommands = parser.add_subcommands(required=True, dest="command")
    for name, function in COMMANDS.items():
        subparser = ArgumentParser(description=inspect.getdoc(function).split("\n")[0])
        subparser.add_argument("--config", action="config", help="YAML file with any of these")
        switches = _switches(function)
        skip = {"setup", *switches}
        subparser.add_function_arguments(function, skip=skip, as_positional=True)
        for switch, text in switches.items():
            subparser.add_argument(f"--{switch}", action="store_true", help=text)
        if "setup" in inspect.signature(function).parameters:
            subparser.add_class_arguments(Setup, skip=UNREAD.get(name, set()))
        subparser.set_defaults(DEFAULTS.get(name, {}))
        subcommands.add_subcommand(name, subparser)
    return parser


def _switches(function: Callable) -> dict[str, str]:
    """Return {name: help} of the boolean parameters, which become flags without a value."""
    parameters = docstring_parser.parse(inspect.getdoc(function)).params
    return {p.arg_name: p.description for p in parameters if _is_switch(function, p.arg_name)}


def _is_switch(function: Callable, name: str) -> bool:
    return inspect.signature(function).parameters[name].annotation in (bool, "bool")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (2: bad input, 1: out of memory, 130: Ctrl-C)."""
    parser = build_parser()
    arguments = sys.argv[1:] if arguments is None else arguments
    arguments = [_underscored(argument) for argument in arguments]
    parsed = parser.parse_args(arguments)
    transformers.logging.disable_progress_bar()
    try:
        _call(COMMANDS[parsed.command], vars(parser.instantiate(parsed)[parsed.command]))
    except (ValueError, OSError, KeyError) as error:
        print(f"prag {parsed.command}: {error}", file=sys.stderr)
        return 2
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        print(f"prag {parsed.command}: {str(error).splitlines()[0]}\n{HINT}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on", file=sys.stderr)
        return 130
    return 0


def _call(function: Callable, options: dict) -> None:
    """Call a command's function; options that are not its own are the shared `Setup`."""
    own = inspect.signature(function).parameters
    arguments = {name: value for name, value in options.items() if name in own}
    if "setup" in own:
        names = {field.name for field in fields(Setup)} & options.keys()
        arguments["setup"] = Setup(**{name: options[name] for name in names})
    function(**arguments)


def _underscored(argument: str) -> str:
    """Let options be written with dashes too: --skip-bad is --skip_bad."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


if __name__ == "__main__":
    sys.exit(main())
