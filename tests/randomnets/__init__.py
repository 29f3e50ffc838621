"""Random valid nets of the layer types of Caffe 1.0."""
