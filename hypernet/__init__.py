"""Hypernetwork: a document's encoding goes in, LoRA weights come out, in one forward pass.

Shape letters: N documents, M documents of one group (merged into one adapter), G groups (N / M),
T tokens, S tokens of a training row, L adapted layers, R rows (rank), I inputs of down_proj,
H hidden size, D width of the reader, V vocabulary.
"""
