"""Training loops: artefacts in, weights out."""

from vtok.openmp import wait_passively

wait_passively()  # before torch: a rank may have been started by any launcher
