"""Rewards of a response's text: language, format, length, instructions."""
