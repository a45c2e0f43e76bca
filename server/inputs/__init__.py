"""From the body of a request to a job whose media are prepared."""
