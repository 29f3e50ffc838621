"""Training as Caffe trains: solvers, data and snapshots."""
