"""Evaluation: a pipeline and a question set go in, scored answers with intervals come out.

A condition asked of a question set is a cell: `evaluate` runs the cells of one set, `benchmark` a
grid of them; `estimates` has the one bootstrap, `tables` the one table.
"""
