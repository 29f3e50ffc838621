"""Nets for other programs."""
