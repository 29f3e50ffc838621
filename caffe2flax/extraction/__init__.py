"""Blobs inside a net as a function of its inputs."""
