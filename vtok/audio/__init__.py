"""Sound as a tokenizer sees it: one spectrum a frame, a video of one channel (sound.md is the guide)."""
