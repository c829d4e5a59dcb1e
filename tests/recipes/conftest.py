"""The chat endpoint of the rewards' tests."""

from tests.rewards.conftest import server

__all__ = ['server']
