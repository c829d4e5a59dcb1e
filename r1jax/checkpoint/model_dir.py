"""What the readers and writers of model directories share."""

CONFIG = 'config.json'


class ModelDirError(ValueError):
  """A model directory that is missing, incomplete or damaged."""
