"""What this program writes to stderr: no line of it raises, none holds the server up."""
