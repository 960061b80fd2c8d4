"""Model: the frozen base model, its prompts, and how it answers with adapters attached.

`load_base_model`, `attached` (the only place where the model is changed, restored at the end),
`generate` (one adapter a batch row), token losses.

Shape letters: N batch rows, T tokens, P tokens that carry loss, L layers, R rank, I in, O out,
H hidden, V vocabulary, d width of an attention head.
"""
