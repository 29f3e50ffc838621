"""What a net is: its graph, its layers, and how they are read from a message."""
