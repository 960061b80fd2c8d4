"""Server: the pipeline behind OpenAI's API, for many requests over many documents at once.

`app` and routes, `service` (documents and requests), `engine` (one thread decodes all rows; or
`vllm_engine`, where a vLLM decodes them).
"""
