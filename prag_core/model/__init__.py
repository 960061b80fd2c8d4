"""Model: the frozen base model, its prompts, and how it answers with adapters attached.

`load_base_model` and the catalogue of embedded models, `attached` (adapters are hooks, taken off at
the end: the weights never change), `generate` (one adapter a batch row), token losses.

Shape letters: N batch rows, T tokens, P tokens that carry loss, L layers, R rank, I in, O out,
H hidden, V vocabulary, d width of an attention head.
"""
