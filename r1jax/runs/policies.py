"""Opens a policy and the engine that samples from it."""

from r1jax import checkpoint, parallel, sampling
from r1jax import config as config_lib


def open_policy(path, mtp=False):
  """The checkpoint.Source of a policy.

  Args:
    path: a model directory or the folder of a run.
    mtp: as for `checkpoint.open_model`.

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
  source = checkpoint.open_model(path, mtp=mtp)
  config_lib.require(source.cfg.head == 'tokens', f'{path} is a reward model; a policy needs an unembedding.')
  return source


def sampler_mesh(cfg):
  """The sampler's mesh of a config.RL or config.SFT: cfg.sampler_mesh, or cfg.mesh where that leaves sizes open."""
  return parallel.make_mesh(parallel.with_default_sizes(cfg.sampler_mesh, cfg.mesh), name='sampler_mesh')


def make_engine(model, tokenizer, mesh, dtype, rollout):
  """The sampling.Engine of a config.Rollout.

  Args:
    model: ModelConfig. dtype: of the computation.
  """
  return sampling.Engine(
    model,
    tokenizer,
    mesh,
    max_prompt=rollout.max_prompt,
    max_response=rollout.max_response,
    stop=rollout.stop,
    precision=sampling.Precision(dtype, rollout.weight_dtype, rollout.cache_dtype),
    slots=rollout.slots,
    prefill=rollout.prefill,
  )
