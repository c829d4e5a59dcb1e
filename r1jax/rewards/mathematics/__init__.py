"""The mathematics reward: answers read, put into one notation and compared."""
