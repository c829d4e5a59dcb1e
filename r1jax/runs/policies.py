"""Opens a policy and the engine that samples from it."""

import jax.numpy as jnp

from r1jax import checkpoint, parallel, sampling
from r1jax import config as config_lib


def open_policy(path):
  """The checkpoint.Source of a policy.

  Args:
    path: a model directory or the folder of a run.

  Raises:
    ConfigError: the path is empty, or the model is a reward model.
    ModelDirError: there is no usable model.
  """
  config_lib.require(
    path,
    'model.path is empty; pass a model directory (config.json, *.safetensors, tokenizer.json or tokenizer.model), a '
    'GGUF file or the folder of a run with --config.model.path=DIR. `scripts/quickstart` and `experiments/pretrain.py` '
    'make small models.',
  )
  source = checkpoint.open_model(path)
  config_lib.require(source.cfg.head == 'tokens', f'{path} is a reward model; a policy needs an unembedding.')
  return source


def make_engine(cfg, source, tokenizer, limits, stop=()):
  """The sampling.Engine of a training run, on cfg.sampler_mesh, or on cfg.mesh where that leaves sizes open.

  Args:
    cfg: config.RL or config.SFT.
    source: checkpoint.Source of the policy.
    limits: has max_prompt and max_response, in tokens.
    stop: texts that end a response.
  """
  return sampling.Engine(
    source.cfg,
    tokenizer,
    parallel.make_mesh(parallel.with_default_sizes(cfg.sampler_mesh, cfg.mesh), name='sampler_mesh'),
    max_prompt=limits.max_prompt,
    max_response=limits.max_response,
    stop=stop,
    dtype=jnp.dtype(cfg.model.dtype),
  )
