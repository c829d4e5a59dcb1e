"""What a run needs of a TPU slice, without a TPU: its real programs compiled for it, their memory, and a roofline.

  pip install -e .[plan]
  python -m experiments.plan --config configs/r1_zero.py:qwen2_5_7b [--topology v5e:4x4] [--mesh fsdp=4,tp=4] \\
      [--program update,sample] [--price 1.2] [--json F] [--config.train.microbatch=4 ...]
  python -m experiments.plan --config configs/distill.py:qwen2_5_math_7b    (or of SFT, sampling, a reward model)
  python -m experiments.plan --config configs/r1.py:deepseek_v3/final                          (a stage of a recipe)
  python -m experiments.plan ... --topology v5e:2x4,v5e:4x4 --search

The model is that of --config.model.path, or of --config.model.preset; mesh and slice default to the config's. Programs
that were compiled before are looked up, not compiled again.
"""

import dataclasses
import os
import sys

from absl import app, flags
import jax
from ml_collections import config_flags

from r1jax import checkpoint, models
from r1jax import config as config_lib
from r1jax.planning import meshes, planner, processes, programs, topology
from r1jax.planning.search import search
from r1jax.runs import cli, json_files


def model_of(cfg):
  """The ModelConfig of the config's model directory, or of its preset, with the layer that its mtp_coef trains."""
  mtp = getattr(cfg, 'mtp_coef', 0) > 0
  if cfg.model.path:
    return checkpoint.open_model(cfg.model.path, mtp=mtp).cfg
  config_lib.require(
    cfg.model.preset in models.PRESETS,
    f'model.preset is {cfg.model.preset!r}; known: {", ".join(models.PRESETS)}; or pass a model '
    'directory with --config.model.path=DIR.',
  )
  preset = models.PRESETS[cfg.model.preset]
  return dataclasses.replace(preset, mtp=int(mtp and preset.family == 'deepseek_v3'))


def cache_dir():
  """Where results are kept by default: next to compiled programs (see `runtime.set_up_process`)."""
  cache = os.environ.get('JAX_COMPILATION_CACHE_DIR')
  return os.path.join(cache or os.path.join(os.path.expanduser('~'), '.cache', 'r1jax'), 'plans')


def main(_):
  jax.config.update('jax_platforms', 'cpu')  # with the TPU compiler installed, JAX would look for a TPU
  with cli.errors_in_one_line():
    cfg = config_lib.of_run(_CONFIG.value)
    if isinstance(cfg, config_lib.ColdStart):
      cfg = programs.as_generate(cfg)
    slices = [topology.find(name) for name in _TOPOLOGY.value or [cfg.topology]]
    config_lib.require(len(slices) == 1 or _SEARCH.value, '--topology: pass one slice, or several with --search.')
    topology.require_compiler()
    mesh, sampler = (meshes.parse(_MESH.value, mesh) for mesh in (cfg.mesh, programs.sampler_mesh(cfg)))
    cfg = meshes.with_meshes(cfg, mesh, sampler)
    options = (_PROGRAM.value, _CACHE.value or cache_dir(), _PRICE.value)
    try:
      model = model_of(cfg)
      if _SEARCH.value:
        out, lines = search(cfg, model, slices, *options)
      else:
        out, lines = planner.plan(cfg, model, slices[0], *options)
    except processes.PlanError as error:
      sys.exit(f'error: {error}')
    print('\n'.join(lines))
    if _JSON.value:
      json_files.write_json(_JSON.value, out)


if __name__ == '__main__':
  _CONFIG = config_flags.DEFINE_config_file('config', lock_config=False, accept_new_attributes=True)
  flags.mark_flag_as_required('config')
  _TOPOLOGY = flags.DEFINE_list('topology', [], 'A TPU slice, for example v5e:4x4; several with --search.')
  _SEARCH = flags.DEFINE_bool('search', False, 'Try every fsdp x tp of the slices; print the smallest and fastest.')
  _MESH = flags.DEFINE_string('mesh', '', "Mesh for training and sampling, as fsdp=4,tp=4; '': the config's.")
  _PROGRAM = flags.DEFINE_list('program', [], f'Of {", ".join(programs.PHASES)}; empty for all that the run has.')
  _JSON = flags.DEFINE_string('json', '', 'File to write the figures to.')
  _PRICE = flags.DEFINE_float('price', 0.0, 'Price of a chip-hour.', lower_bound=0.0)
  _CACHE = flags.DEFINE_string('cache', '', "Directory of cached results; '': next to compiled programs.")
  app.run(main, flags_parser=cli.parse_flags)
