"""Command line: `prag COMMAND ...`; the commands with a line each are in COMMANDS.

Arguments go in, an exit status comes out. Every option is a parameter of the command's function
(one file each in prag_core/commands/) or a field of `Setup` (pipeline/setup.py), and may stand in
a YAML file given with --config. Only the command that was asked for is imported: `prag --help`
loads no other package.

Environments. Variables that are read: PRAG_CACHE, else XDG_CACHE_HOME/prag, else ~/.cache/prag
(base models and corpora; it may be read-only once a model is in it); PRAG_API_KEY and
VLLM_API_KEY (`prag serve`); PRAG_VLLM_* (the vLLM plugin, see formats/vllm_settings.py);
PIP_INDEX_URL, UV_DEFAULT_INDEX and UV_INDEX_URL (where wheels come from without pip); and those of
the libraries, such as HF_HOME, HF_HUB_OFFLINE, HTTPS_PROXY and OMP_NUM_THREADS. A store that cannot
be written is answered from, listed, verified and exported; changes of it are refused.

Exit statuses: 0; 1 where the machine failed (memory, disk, open files, a lock that others keep); 2
for wrong input or options, with "got ..., expected ...: remedy"; 130 after Ctrl-C and 143 after
SIGTERM, what is finished being kept (`prag serve` first ends what runs); 141 where the reader of a
pipe has gone.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import import_module
from typing import TYPE_CHECKING, get_type_hints

from prag_core.files import FAILURES, sentence
from prag_core.terminal import standard_streams

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


@dataclass(frozen=True)
class Command:
    """A command's place and what of its options differs from the function's own parameters.

    Attributes:
        place: "module:function".
        summary: first line of the function's docstring.
        unread: fields of `Setup` that the command does not read, and so does not offer.
        words: parameters that are written without their names, and may be left out.
        stopped: what to do after Ctrl-C.
    """

    place: str
    summary: str
    unread: Sequence[str] = ()
    words: Sequence[str] = ()
    stopped: str = "run the same command again to go on"


# In the order in which a new user meets them. The summaries are repeated here, so that the overview
# needs no import; a test holds them equal to the docstrings.
SUMMARIES = {
    "demo": "Turn 12 invented documents into adapters and ask about them in every mode.",
    "parametrize": "Turn documents into adapters; what the store has already is skipped.",
    "answer": "Answer questions from the documents of a store.",
    "serve": "Answer questions over HTTP, as OpenAI's API does, while documents come and go.",
    "evaluate": "Score a question set in any conditions, with intervals and controls.",
    "questions": "Let a model write questions about documents; keep those that need the document.",
    "belief": "Write a question set whose texts contradict what the base model answers right.",
    "benchmark": "Run a grid of question sets, base models, paths and conditions into one table.",
    "compare": "Compare trained with generated adapters: quality, side effects, merging, cost.",
    "speed": "Measure speed beside stock PEFT; parts measured earlier stay in the file.",
    "warmup": "Train an adapter on question-answer pairs, for the trained path to start from.",
    "writer": "Train an adapter that asks questions about a document, as people do.",
    "reader": "Train the baseline `reader`: one LoRA that answers with the passage in the prompt.",
    "store": "Look into a store, check it, keep it in order, and move adapters in and out.",
    "models": "Show which base models load by name, or fetch one now.",
}
OF_DOCUMENTS = (  # fields of `Setup` that say how documents become adapters, and are found
    "path", "hypernet", "hypernet_rank", "hypernet_dtype", "augmentation", "retriever",
    "least_coverage", "least_similarity",
)  # fmt: skip
DIFFERENCES: dict[str, dict] = {  # from what the function's signature says, see `Command`
    "demo": {"unread": ["path", "reader"]},
    "answer": {"stopped": "what was printed is in OUTPUT, too; the same command begins anew"},
    "parametrize": {"words": ["corpus"], "unread": ["reader"]},
    # Not called `evaluate`: the parser would look a function of this name up in prag_core, whose
    # public one loads torch.
    "evaluate": {"place": "prag_core.commands.evaluate:evaluate_set"},
    # Each request brings its own decoding options.
    "serve": {"unread": ["generation", "reader"]},
    "benchmark": {  # a list of models has them
        "unread": ["path", "base_model", "dtype", "hypernet", "reader"]
    },
    "belief": {"unread": [*OF_DOCUMENTS, "training", "reader"]},
    "compare": {"unread": ["path"]},
    "speed": {"stopped": "finished parts are kept; name the others in --parts"},
    "warmup": {
        "unread": [*OF_DOCUMENTS, "reader", "generation", "answering"],
        "stopped": "nothing was kept",
    },
    "writer": {
        "unread": [*OF_DOCUMENTS, "reader", "generation", "answering"],
        "stopped": "nothing was kept",
    },
    "reader": {
        "unread": [*OF_DOCUMENTS, "reader", "generation", "answering"],
        "stopped": "the best adapter so far is kept; the same command begins anew elsewhere",
    },
    "models": {"words": ["action", "name"]},
}
COMMANDS = {
    name: Command(
        **{"place": f"prag_core.commands.{name}:{name}", "summary": line}
        | DIFFERENCES.get(name, {})
    )
    for name, line in SUMMARIES.items()
}
MEMORY_HINT = (
    "got a batch that exceeds memory, expected one that fits: lower --generation.batch_size, "
    "--training.tokens_per_batch or --training.documents_per_batch, and run the command again; "
    "what is finished is kept"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (see `run_command`)."""
    words = list(sys.argv[1:] if arguments is None else arguments)  # the command's name first
    # Read by huggingface_hub and transformers when they are imported: no bars for loading weights.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

    def run(name: str) -> None:
        run_function(f"prag {name}", COMMANDS[name], [_underscored(word) for word in words[1:]])

    about = sys.modules["prag_core"].__doc__
    return run_program("prag", about, COMMANDS, words, run, MEMORY_HINT)


def run_program(
    program: str,
    about: str,
    commands: Mapping[str, Command],
    words: Sequence[str],
    run: Callable[[str], object],
    memory_hint: str,
) -> int:
    """Run the command that the first word names; returns the exit status (see `run_command`).

    Args:
        program: name on the command line.
        about: text whose first line says what the program does.
        commands: by name.
        words: of the command line.
        run: takes the name of the command.
        memory_hint: what to do where memory ran out.
    """
    with standard_streams():
        name, status = pick_command(program, about, commands, words)
        if name is None:
            return status
        stopped = commands[name].stopped
        return run_command(f"{program} {name}", lambda: run(name), memory_hint, stopped)


def run_function(program: str, command: Command, words: Sequence[str]) -> None:
    """Parse the options of a command and call its function."""
    _require_current_folder()
    function, parser = build_parser(program, command)
    try:  # wrong options end here, with argparse's own message and status 2
        options = parser.parse_args(list(words))
    except (UnicodeDecodeError, RecursionError) as error:  # the parser passes these
        raise ValueError(
            f"got a --config file that cannot be read ({error}), expected YAML in UTF-8 that does "
            "not refer to itself: save it so"
        ) from error
    call(function, parser.instantiate(options))


def pick_command(
    program: str, about: str, commands: Mapping[str, Command], arguments: Sequence[str]
) -> tuple[str | None, int]:
    """Return the command's name; or None and the exit status, with the overview printed.

    Args:
        program: name on the command line.
        about: text whose first line says what the program does.
        commands: by name.
        arguments: of the command line; the command comes first.
    """
    first = arguments[0] if arguments else None
    if first in commands:
        return first, 0
    asked_for_help = first in ("-h", "--help")
    if not asked_for_help and arguments:
        known = ", ".join(commands)
        message = f"got command {first!r}, expected one of {known}: see {program} --help"
        print(f"{program}: {message}", file=sys.stderr)
        return None, 2
    width = max(map(len, commands))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in commands.items()]
    text = "\n".join([
        f"usage: {program} COMMAND [options]", "", about.strip().split("\n")[0], "",
        "commands:", *lines, "", f"options of a command: {program} COMMAND --help",
    ])  # fmt: skip
    print(text, file=sys.stdout if asked_for_help else sys.stderr)
    return None, 0 if asked_for_help else 2


def load_function(place: str) -> Callable:
    """Import "module:function"."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def build_parser(program: str, command: Command) -> tuple[Callable, ArgumentParser]:
    """Import a command's function and build its parser.

    Options are the function's parameters and, where one is `setup`, the fields of its class.

    Args:
        program: name shown in messages.
        command: the command.

    Returns:
        The function, to be called by `call`, and the parser.
    """
    from jsonargparse import ArgumentParser  # deferred: --help of the program needs none

    function = load_function(command.place)
    parser = ArgumentParser(prog=program, description=summary(function))
    parser.add_argument("--config", action="config", help="YAML file with any of these")
    help_texts = parameter_help(function)
    types = get_type_hints(function)  # annotations are strings
    parameters = inspect.signature(function).parameters
    switches = [name for name in parameters if types[name] is bool]
    for word in command.words:
        default = parameters[word].default
        parser.add_argument(
            word, nargs="?", type=types[word], default=default, help=help_texts[word]
        )
    skip = {"setup", *switches, *command.words}
    parser.add_function_arguments(function, skip=skip, as_positional=True)
    for switch in switches:  # flags without a value
        parser.add_argument(f"--{switch}", action="store_true", help=help_texts[switch])
    if "setup" in parameters:  # its fields become options of the command, not of --setup
        parser.add_class_arguments(types["setup"], skip={*command.unread})
    return function, parser


def summary(function: Callable) -> str:
    """Return the first docstring line."""
    return inspect.getdoc(function).split("\n")[0]


def parameter_help(function: Callable) -> dict[str, str]:
    """Return {parameter: its text in the docstring}."""
    import docstring_parser  # comes with jsonargparse[signatures], which reads docstrings by it

    parsed = docstring_parser.parse(inspect.getdoc(function))
    return {parameter.arg_name: parameter.description for parameter in parsed.params}


def call(function: Callable, options: Namespace) -> None:
    """Call a command's function; options that are not its parameters are the shared `Setup`."""
    parameters, values = inspect.signature(function).parameters, vars(options)
    # What is neither a parameter nor a field (--config, say) has done its work.
    arguments = {name: value for name, value in values.items() if name in parameters}
    if "setup" in parameters:
        setup = get_type_hints(function)["setup"]
        names = {entry.name for entry in fields(setup)} & values.keys()
        arguments["setup"] = setup(**{name: values[name] for name in names})
    function(**arguments)


def run_command(
    program: str, command: Callable[[], object], memory_hint: str, stopped: str = Command.stopped
) -> int:
    """Call a command and turn the errors of users and machines into messages.

    Args:
        program: name in front of the messages.
        command: what to call.
        memory_hint: what to do where memory ran out.
        stopped: what to do after Ctrl-C.

    Returns:
        The exit status: 0, 2 for bad input, 1 where memory or the disk failed, 130 after Ctrl-C.
    """
    try:
        command()
        sys.stdout.flush()  # here, where what goes wrong is said
    except BrokenPipeError:  # nobody reads on, see `standard_streams`
        raise
    except (ValueError, OSError, KeyError) as error:
        if type(error) is KeyError:  # a defect; the store's own kind has a message
            raise
        print(f"{program}: {sentence(error)}", file=sys.stderr)
        return 1 if getattr(error, "errno", None) in FAILURES else 2
    except (RuntimeError, MemoryError) as error:
        from prag_core.model.hardware import is_out_of_memory  # torch is loaded by now

        if not is_out_of_memory(error):
            raise
        reason = next(iter(str(error).splitlines()), "out of memory")  # Python's own says nothing
        print(f"{program}: {reason}\n{memory_hint}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"stopped; {stopped}", file=sys.stderr)
        return 130
    return 0


def _require_current_folder() -> None:
    """Raise FileNotFoundError where the current folder was deleted: torch would end the process."""
    try:
        os.getcwd()
    except FileNotFoundError as error:
        problem = "got a current folder that was deleted, expected one that is there"
        raise FileNotFoundError(f"{problem}: change to another") from error


def _underscored(argument: str) -> str:
    """Let options be written with dashes too: --skip-bad is --skip_bad."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


if __name__ == "__main__":
    sys.exit(main())
