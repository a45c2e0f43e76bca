"""A VideoSpec and prepared pixels in, a video file out. No HTTP, no database, no environment."""
