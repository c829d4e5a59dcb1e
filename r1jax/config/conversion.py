"""Converts config files to frozen dataclasses and back."""

import dataclasses
import difflib
import types
import typing

from r1jax.config import ranges


class ConfigError(ValueError):
  """A setting cannot work; the message names it, gives the numbers and says what to do."""


def require(condition, message):
  """Raises ConfigError with `message` unless the condition holds."""
  if not condition:
    raise ConfigError(message)


def require_float(name, value):
  require(value in ('float32', 'bfloat16'), f"{name} is {value!r}; use 'float32' or 'bfloat16'.")


def convert(config, cls, prefix=''):
  """Converts a ConfigDict (or nested dict) to the frozen dataclass `cls`.

  Args:
    config: the mapping to convert.
    cls: a dataclass of settings.
    prefix: dotted path of `config` in the whole config, with its last dot; used in messages.

  Raises:
    ConfigError: an unknown key (the message names the closest known one), a missing key, a wrong type, a number out of
      its range (see `ranges`), or a failed check of the class itself.
  """
  fields = {f.name: f for f in dataclasses.fields(cls)}
  for key in config:
    if key not in fields:
      closest = difflib.get_close_matches(key, fields, n=1, cutoff=0)[0]
      raise ConfigError(f"unknown key '{prefix}{key}'; the nearest known one is '{prefix}{closest}'.")
  hints = typing.get_type_hints(cls)
  values = {}
  for name, field in fields.items():
    if name in config:
      values[name] = _convert_value(config[name], hints[name], prefix + name)
    elif field.default is field.default_factory is dataclasses.MISSING:
      raise ConfigError(f"'{prefix}{name}' is missing; it has no default.")
  for key, value, allowed in ranges.out_of_range(cls.__name__, values, prefix):
    raise ConfigError(f'{key} is {value}; it must lie in {allowed}.')
  return cls(**values)


def _convert_value(value, expected: type, path):
  if dataclasses.is_dataclass(expected):
    require(
      hasattr(value, 'items'), f"'{path}' is {value!r}; it must be a mapping with the keys of {expected.__name__}."
    )
    return convert(value, expected, path + '.')
  origin = typing.get_origin(expected)
  if origin is dict:
    _, inner = typing.get_args(expected)
    require(hasattr(value, 'items'), f"'{path}' is {value!r}; it must be a mapping of names to {inner.__name__}s.")
    return types.MappingProxyType({k: _convert_value(v, inner, f'{path}.{k}') for k, v in value.items()})
  if origin is tuple:
    inner = typing.get_args(expected)[0]
    require(isinstance(value, (tuple, list)), f"'{path}' is {value!r}; it must be a list of {inner.__name__}s.")
    return tuple(_convert_value(v, inner, path) for v in value)
  if expected is dict:
    require(hasattr(value, 'items'), f"'{path}' is {value!r}; it must be a mapping of names to values.")
    return {k: _convert_value(v, dict, f'{path}.{k}') if hasattr(v, 'items') else v for k, v in value.items()}
  if expected is float and isinstance(value, int) and not isinstance(value, bool):
    return float(value)
  if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
    raise ConfigError(f"'{path}' is {value!r} ({type(value).__name__}); it must be of type {expected.__name__}.")
  return value


def to_dict(config) -> typing.Any:
  """Returns a converted config as a nested dict of plain values, ready for JSON."""
  if dataclasses.is_dataclass(config):
    return {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
  if isinstance(config, (dict, types.MappingProxyType)):
    return {k: to_dict(v) for k, v in config.items()}
  if isinstance(config, tuple):
    return [to_dict(v) for v in config]
  return config


def flat(tree, prefix='', lists=False):
  """Flattens nested dicts to {dotted key: leaf}; empty dicts are leaves. lists: flatten lists too, by their indices."""
  if lists and isinstance(tree, (list, tuple)):
    tree = {str(i): value for i, value in enumerate(tree)}
  if not hasattr(tree, 'items') or not tree:
    return {prefix: tree}
  return {
    k: v
    for key, value in tree.items()
    for k, v in flat(value, f'{prefix}.{key}' if prefix else str(key), lists).items()
  }
