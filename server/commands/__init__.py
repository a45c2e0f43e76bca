"""What the commands of `cosmos-serve` do; `server.cli` says how they are called."""
