"""Shared by the config files: strict variants."""


def choose(variants, name):
  """The config of a variant; unknown ones are refused with the list."""
  if name not in variants:
    raise ValueError(f"unknown variant '{name}'; known: {', '.join(variants)}.")
  return variants[name]()
