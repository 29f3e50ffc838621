"""Training as in Caffe."""
