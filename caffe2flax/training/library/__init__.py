"""Functions and classes that training scripts have copies of."""
