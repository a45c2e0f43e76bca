"""OpenAI's videos API as values: requests, views, errors."""
