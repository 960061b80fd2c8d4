"""Commands: options go in, what each `hypernet` subcommand does comes out.

`fit`, `validate`, `test` and `predict` are Lightning's (training.py); `export` writes weights.
"""
