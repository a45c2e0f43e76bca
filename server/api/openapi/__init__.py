"""What the API says of itself: OpenAPI documents and llms.txt."""
