"""Pipeline: documents and questions go in, answers come out.

`modes` (every way to answer), `Answerer` (the one way from documents to answers), `relevance`
(which adapters are meant), `ParametricRAG` (documents, store and answerer), `setup` (settings) and
`parts` (what is built of them).
"""
