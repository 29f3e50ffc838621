"""What training scripts carry: text that is copied into them."""
