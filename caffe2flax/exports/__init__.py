"""Nets for other programs: ONNX, StableHLO, and folders to publish."""
