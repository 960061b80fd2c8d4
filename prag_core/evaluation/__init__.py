"""Evaluation: a pipeline and a question set go in, scored answers with intervals come out."""
