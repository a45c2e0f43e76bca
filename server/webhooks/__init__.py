"""The outbox: rows to send, the sender, and the signature."""
