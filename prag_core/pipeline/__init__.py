"""Pipeline: from documents to answers.

`ParametricRAG` is the page to read first; settings become parts in `parts`.
"""
