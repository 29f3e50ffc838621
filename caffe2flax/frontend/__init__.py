"""Files -> messages of the current format."""
