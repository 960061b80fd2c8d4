"""Commands: options go in, each `prag` subcommand does its work and prints what came of it.

One file a command. Its function's signature and docstring are the command line and the YAML at
once; what it needs beyond arguments and printing stands in the folders below. What loads torch is
imported inside of functions, and named in no annotation (the parser of options resolves those), so
that --help is there at once.
"""
