"""Toy worlds: generated problems and texts, with which everything runs at small scale within minutes."""
