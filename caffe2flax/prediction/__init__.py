"""Nets run on image files."""
