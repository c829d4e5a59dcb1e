"""Generated worlds, in which everything runs at small scale within minutes."""
