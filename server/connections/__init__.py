"""What listens: connections, counted from `accept` to `close`, and HTTP with bounds."""
