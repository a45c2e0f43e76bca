"""fal's protocol as values: endpoints, schemas, headers, URLs, views. No I/O."""
