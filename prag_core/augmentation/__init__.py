"""Augmentation: a document goes in, rewrites and question-answer pairs on it come out.

The first stage of the trained path; what a model wrote is cached by document.
"""
