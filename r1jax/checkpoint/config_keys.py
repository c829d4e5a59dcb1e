"""Reads the keys of a config.json, which may be missing, renamed or of the wrong type."""

import math

from r1jax.checkpoint.model_dir import ModelDirError

# Keys that transformers 5 has renamed.
RENAMED = {
  'num_experts': 'num_local_experts',
  'n_routed_experts': 'num_local_experts',
  'num_nextn_predict_layers': 'num_mtp_layers',
}


NAMES = {int: 'an int', float: 'a float', bool: 'a bool'}


class Keys:
  """Reads keys of a config.json; every failure is a ModelDirError with its path `where`."""

  def __init__(self, config, where):
    self.config, self.where = config, where

  def fail(self, message):
    raise ModelDirError(f'{self.where}: {message}')

  def number(self, key, *default, kinds=(int, float), least=0, most=math.inf):
    """config[key], or the default if it is absent or null: finite, of one of `kinds`, from `least` to `most`."""
    value = self.config.get(key)
    value = self.config.get(RENAMED.get(key)) if value is None else value
    if value is None:
      return default[0] if default else self.fail(f"'{key}' is missing; copy the model's own config.json.")
    most = min(most, (1 << 31) - 1) if kinds == (int,) else most
    if type(value) not in kinds or not least <= value <= most or not math.isfinite(value):
      bounds = (
        '' if kinds == (bool,) else f' of at least {least}' + ('' if most == math.inf else f' and at most {most}')
      )
      self.fail(
        f"'{key}' is {repr(value)[:100]}, which is not {NAMES[kinds[-1]]}{bounds}; copy the model's own config.json."
      )
    return value

  def size(self, key, *default, least=1):
    return self.number(key, *default, kinds=(int,), least=least)

  def flag(self, key, default):
    return self.number(key, default, kinds=(bool,))

  def within(self, section):
    """The same for a nested dict of the config."""
    return Keys(section, self.where)
