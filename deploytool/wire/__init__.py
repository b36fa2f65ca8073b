"""OpenAI's embeddings API as data: addresses, answers, errors. Pure: nothing here opens a connection."""
