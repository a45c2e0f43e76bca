"""Every request that the server sends, and the addresses that it may go to."""
