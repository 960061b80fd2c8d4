"""Commands: `fit`, `validate`, `test`, `predict` (training.py), and `export`."""
