"""The command line: `main` says how commands are called, the others what they do."""
