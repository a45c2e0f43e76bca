"""The Pool protocol, this machine's pool, the messages, and the worker's side."""
