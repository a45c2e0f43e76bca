"""Every setting of the server, read once into one frozen value."""
