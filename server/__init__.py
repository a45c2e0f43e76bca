"""What people send us and what we promise them: HTTP, jobs, files and the worker pool."""
