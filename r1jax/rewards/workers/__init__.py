"""Worker processes that score responses, and the pool that feeds and restarts them."""
