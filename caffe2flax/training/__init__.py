"""Training as Caffe trains."""
