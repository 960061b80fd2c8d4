"""Training: augmented documents go in, trained LoRA adapters come out.

The trained path of Su et al. (2025); many documents train at once over one frozen base.
"""
