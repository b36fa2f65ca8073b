"""The SentenceTransformers server: OpenAI's embeddings API with batching across clients.

A program of its own (`python -m deploytool.st_server --help`): it is started, never imported, and imports
nothing of deploytool but itself.

    __main__   the process: socket first, model in the background, signals, exit codes
    config     the command line -> Config
    service    what the server is doing: loading, ready, stopping, failed
    app        the only HTTP (Starlette)               door        what is refused before HTTP is parsed
    schema     request bytes -> EmbeddingRequest       vectors     float32 rows -> response bytes
    reranking  the same for /v1/rerank                 preparing   both: bytes -> ids, numbers -> bytes
    tokens     texts -> token ids (no torch)           auth        the API key
    batcher    queue, lanes, delivery                  packing     which texts share a forward (pure)
    workers    --workers N: the parent                 handover    a worker's socket to its parent
    shares     what each worker gets                   board       their metrics, shown as one
    jobs       one request's texts and its one answer
    metrics    Prometheus                              errors      what clients and launchers are told
    model_folder  the model's files, before anything is loaded
    lifecycle  uvicorn, the loading thread, signals    stages      lines on stderr for launchers
    backends/  the only torch, and ONNX Runtime and OpenVINO beside it
"""
