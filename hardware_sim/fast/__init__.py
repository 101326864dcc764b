"""The fast engine: the reference's integers, each layer in the cheapest arithmetic that holds them. See `engine`."""
