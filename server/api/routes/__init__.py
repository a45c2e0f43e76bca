"""Routes, one module per service of the fal protocol."""
