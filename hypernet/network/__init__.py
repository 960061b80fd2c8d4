"""Network: a document's encoding goes in, LoRA rows come out.

The trained part of the generated path: encoder, reader, heads, and checkpoints of them.
"""
