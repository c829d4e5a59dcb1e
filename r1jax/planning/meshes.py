"""Meshes of a plan: from a flag, against a number of chips, and into a config."""

import dataclasses

from r1jax import config as config_lib


def parse(text, default):
  """config.Mesh from 'fsdp=4,tp=4' with size 1 for other axes; `default` if the text is empty."""
  if not text:
    return default
  axes = {f.name: 1 for f in dataclasses.fields(config_lib.Mesh)}
  for item in text.split(','):
    axis, _, size = item.partition('=')
    config_lib.require(
      axis in axes and size.lstrip('-').isdigit(),
      f'--mesh {text!r}: {item!r} is not AXIS=SIZE; axes: {", ".join(axes)}.',
    )
    axes[axis] = int(size)
  return config_lib.Mesh(**axes)


def sizes(mesh, chips):
  """{axis: size} of a config.Mesh with -1 filled in. Raises ConfigError if it does not match the number of chips."""
  axes = {f.name: getattr(mesh, f.name) for f in dataclasses.fields(mesh)}
  product = 1
  for n in axes.values():
    product *= abs(n)
  unknown = [axis for axis, n in axes.items() if n == -1]
  if len(unknown) == 1 and chips % product == 0:
    axes[unknown[0]] = chips // product
    product = chips
  config_lib.require(
    product == chips and min(axes.values()) > 0,
    f'mesh {axes} does not match the {chips} chips of the slice; set one axis to -1 and let the others divide {chips}.',
  )
  return axes


def with_meshes(cfg, mesh, sampler):
  """cfg with these config.Mesh for training and, if it has a mesh of its own, for sampling."""
  sampler_mesh = {'sampler_mesh': sampler} if hasattr(cfg, 'sampler_mesh') else {}
  return dataclasses.replace(cfg, mesh=mesh, **sampler_mesh)
