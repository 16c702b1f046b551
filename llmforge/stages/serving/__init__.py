"""Serving a model: an OpenAI-style endpoint over the server that transformers ships.

In: a loaded model, settings of generation, an address. Out: answers over HTTP that are those of
`llmforge generate`. `requests.py` reads what a client asks for, `answering.py` generates it,
`server.py` joins both with the library's server, `listening.py` takes the address before anything
is loaded, and `vllm.py` starts the other engine instead.
"""
