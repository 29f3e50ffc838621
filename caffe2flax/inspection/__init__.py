"""What a net is made of, what it costs, and which lines belong together."""
