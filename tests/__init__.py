"""Tests of everything; they mirror the tree."""

from vtok.openmp import wait_passively

wait_passively()  # as every command does, before torch is imported: test processes share the cores
