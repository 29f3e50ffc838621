"""JAX functions that Flax lacks; generated modules have copies of them."""
