"""Benchmark: a grid of evaluations, as one table."""
