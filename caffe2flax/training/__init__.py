"""Training as Caffe trains: solvers, data, snapshots, and the script of a run."""
