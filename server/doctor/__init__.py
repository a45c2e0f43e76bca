"""What a server needs of its machine: what is so, what is not, and the command that mends it."""
