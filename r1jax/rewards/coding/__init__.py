"""The code reward: programs, their tests, and the sandbox both run in."""
