"""The code reward: programs, their tests, and the sandbox in which both run."""
