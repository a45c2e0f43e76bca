"""The rows of jobs: one method, one transaction; limits and retention."""
