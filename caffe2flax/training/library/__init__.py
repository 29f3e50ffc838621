"""JAX and numpy functions of the training script, which has copies of them."""
