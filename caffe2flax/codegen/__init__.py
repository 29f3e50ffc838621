"""Graph -> source text and weights."""
