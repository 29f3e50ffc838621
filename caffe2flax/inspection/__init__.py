"""The layers of a net, what they cost, and their lines in prototxt and module."""
