"""Small real files whose every frame says what it is, and what vtok must make of them.

The files are made with the encoders of FFmpeg (through PyAV and the ffmpeg program) or written byte by byte; what is
right follows from how a file was made, never from the code under test. `python -m tests.oracle` draws new ones.
"""
