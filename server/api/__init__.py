"""HTTP in and out. The only package with FastAPI, beside `server.app` and `server.serve`."""
