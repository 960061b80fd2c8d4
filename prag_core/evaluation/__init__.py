"""Evaluation: a pipeline and a question set go in, scored answers with intervals come out.

A condition asked of a question set is a cell: `evaluate` runs the cells of one set, `benchmark` a
grid of them, into one results file a base model; `estimates` has the one bootstrap and the tests,
`tables` the one table, `rendering` writes the tables of README and cards from results files.
"""
