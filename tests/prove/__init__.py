"""Proofs of the promises at full size; each has a short form among the tests."""
