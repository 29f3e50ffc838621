"""Training as Caffe trains: solver.prototxt -> learning rate and optimizer."""
