"""Functions that training scripts have copies of."""
