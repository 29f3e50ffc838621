"""Caffe's weight blobs as the variables of the module, in a safetensors file."""
