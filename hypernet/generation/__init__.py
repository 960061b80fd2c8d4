"""Generation: documents go in, adapters come out in one forward pass.

`HypernetParametrizer`, found by the pipeline under the entry point `generated`.
"""
