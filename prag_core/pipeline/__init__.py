"""Pipeline: documents and questions go in, answers come out.

`modes` (every way to answer), `Answerer` (the one way from documents to answers), `relevance`
(which adapters are meant), `kept_passages` (keys and values on disk), `ParametricRAG`
(documents, store and answerer), `parts` (settings).
"""
