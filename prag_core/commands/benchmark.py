"""Benchmark: a grid of question sets, base models, paths and modes goes in, one table comes out."""

from __future__ import annotations

from prag_core.benchmark.run import benchmark

__all__ = ["benchmark"]
