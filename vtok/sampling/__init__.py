"""Drawing codes from a prior."""
