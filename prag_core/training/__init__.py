"""Training: augmented documents go in, trained LoRA adapters come out.

The trained path of Su et al. (2025); many documents train at once over one frozen base. Also the
warm-up initialisation, the one adapter of a whole corpus, and the baseline `reader`: one adapter
that answers from passages.

Shape letters: N documents that train together, T tokens, R rank of the stack, r of one document,
I in, O out.
"""
