"""Files: checked when they are read, written completely or not at all."""
