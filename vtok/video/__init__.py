"""Raw video: decoding, resizing, encoding."""
