"""Ray jobs: artefacts in, artefacts out."""

from vtok.openmp import wait_passively

wait_passively()  # a worker imports this first, on whatever node it is
