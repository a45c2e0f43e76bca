"""Who calls: API keys and the tokens made from them."""
