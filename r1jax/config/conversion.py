"""From a config file to frozen dataclasses and back."""

import dataclasses
import difflib
import types
import typing

from r1jax.config import ranges


class ConfigError(ValueError):
  """A setting that cannot work; the message says which, with the numbers, and what to do."""


def require(ok, message):
  if not ok:
    raise ConfigError(message)


def require_float(name, value):
  require(value in ('float32', 'bfloat16'), f"{name} is {value!r}; use 'float32' or 'bfloat16'.")


def convert(config, cls, at=''):
  """Turns a ConfigDict (or nested dict) into the frozen dataclass `cls`.

  Raises ConfigError for an unknown key (naming the nearest), a missing key, a wrong type, a number out of its range
  (see `ranges`), and whatever a class's own checks refuse.
  """
  fields = {f.name: f for f in dataclasses.fields(cls)}
  for key in config:
    if key not in fields:
      near = difflib.get_close_matches(key, fields, n=1, cutoff=0)
      raise ConfigError(f"unknown key '{at}{key}'; the nearest known one is '{at}{near[0]}'.")
  hints = typing.get_type_hints(cls)
  values = {}
  for name, field in fields.items():
    if name in config:
      values[name] = _value(config[name], hints[name], at + name)
    elif field.default is field.default_factory is dataclasses.MISSING:
      raise ConfigError(f"'{at}{name}' is missing; it has no default.")
  for key, value, allowed in ranges.outside(cls.__name__, values, at):
    raise ConfigError(f'{key} is {value}; it must lie in {allowed}.')
  return cls(**values)


def _value(value, want, at):
  if dataclasses.is_dataclass(want):
    require(hasattr(value, 'items'), f"'{at}' is {value!r}; it must hold the keys of {want.__name__}.")
    return convert(value, want, at + '.')
  origin = typing.get_origin(want)
  if origin is dict:
    _, inner = typing.get_args(want)
    require(hasattr(value, 'items'), f"'{at}' is {value!r}; it must map names to {inner.__name__}s.")
    return types.MappingProxyType({k: _value(v, inner, f'{at}.{k}') for k, v in value.items()})
  if origin is tuple:
    inner = typing.get_args(want)[0]
    require(isinstance(value, (tuple, list)), f"'{at}' is {value!r}; it must be a list of {inner.__name__}s.")
    return tuple(_value(v, inner, at) for v in value)
  if want is dict:
    require(hasattr(value, 'items'), f"'{at}' is {value!r}; it must map names to values.")
    return {k: _value(v, dict, f'{at}.{k}') if hasattr(v, 'items') else v for k, v in value.items()}
  if want is float and isinstance(value, int) and not isinstance(value, bool):
    return float(value)
  if not isinstance(value, want) or (isinstance(value, bool) and want is not bool):
    raise ConfigError(f"'{at}' is {value!r} ({type(value).__name__}); it must be of type {want.__name__}.")
  return value


def to_dict(config):
  """The plain nested dict of a converted config, for JSON."""
  if dataclasses.is_dataclass(config):
    return {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
  if isinstance(config, (dict, types.MappingProxyType)):
    return {k: to_dict(v) for k, v in config.items()}
  if isinstance(config, tuple):
    return [to_dict(v) for v in config]
  return config


def flat(tree, at='', lists=False):
  """Nested dicts -> {dotted key: leaf}; an empty one is a leaf. lists: take these apart too, by their places."""
  if lists and isinstance(tree, (list, tuple)):
    tree = {str(i): value for i, value in enumerate(tree)}
  if not hasattr(tree, 'items') or not tree:
    return {at: tree}
  return {k: v for key, value in tree.items() for k, v in flat(value, f'{at}.{key}' if at else str(key), lists).items()}
