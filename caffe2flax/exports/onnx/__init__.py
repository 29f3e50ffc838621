"""Graph -> ONNX model, one function for each layer type."""
