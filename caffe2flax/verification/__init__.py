"""A generated module compared with what Caffe computes."""
