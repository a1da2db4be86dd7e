"""WebDataset shards: writing them to the byte, reading them in an exact order."""
