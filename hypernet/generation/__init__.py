"""Generation: documents go in, adapters come out in one forward pass."""
