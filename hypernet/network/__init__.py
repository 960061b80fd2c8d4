"""Network: a document's encoding goes in, LoRA rows come out.

The encoder runs the frozen base model; reader and heads are the trained part of the generated path,
with checkpoints of them.
"""
