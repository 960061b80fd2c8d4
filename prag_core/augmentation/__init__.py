"""Augmentation: a document goes in, rewrites and question-answer pairs on it come out.

The first stage of the trained path. `SpanAugmenter` works by rule; `WritingAugmenter` adds what a
model writes, `SelfAugmenter` asks one for JSON, and both are cached by document; `FileAugmenter`
reads ready-made pairs. `QuestionWriter` is beside it: what a model writes about a whole corpus
becomes a question set. See README.md here.
"""
