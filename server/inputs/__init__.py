"""From the body of a request to a job whose picture is prepared."""
