"""Ray jobs: artefacts in, artefacts out."""
