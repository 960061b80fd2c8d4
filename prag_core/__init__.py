"""Parametric retrieval-augmented generation: documents become LoRA adapters, adapters answer.

Shape letters used in every comment of this package:
N documents (or batch rows), T tokens, L layers, R rank, I in features, O out features,
H hidden size, V vocabulary size.
"""

__version__ = "0.1.0"
