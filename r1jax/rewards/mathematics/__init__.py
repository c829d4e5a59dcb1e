"""The mathematics reward: reads answers, normalizes their notation and compares them."""
