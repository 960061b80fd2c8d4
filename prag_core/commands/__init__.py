"""Commands: options go in, each `prag` subcommand does its work and prints what came of it.

One file a command. Its function's signature and docstring are the command line and the YAML at
once; what it needs beyond arguments and printing stands in the folders below.
"""
