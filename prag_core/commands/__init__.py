"""Commands: what each `prag` subcommand does; signatures are the command line and the YAML."""
