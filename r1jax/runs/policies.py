"""Opens a policy, the parameters that a run begins with, and the engine that samples from it."""

import jax

from r1jax import checkpoint, keys, models, parallel, sampling
from r1jax import config as config_lib
from r1jax import params as params_lib
from r1jax.models import lora
from r1jax.training import lora as training
from r1jax.training import state as state_lib

ADAPTER_KEY = 2**32 - 1  # folded into a run's key for the first values of an adapter; steps are smaller


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


def open_adapter(cfg, source):
  """The checkpoint.Adapter that a run begins with; None for a new one.

  Args:
    cfg: config.LoRA. source: checkpoint.Source of the model that is adapted.

  Raises:
    ConfigError: rank, alpha or targets differ. ModelDirError: there is no adapter, or it does not fit the model.
  """
  specs = models.specs(source.cfg)
  names = lambda targets: ', '.join(sorted(set(map(lora.within_layer, lora.matrices(specs, targets)))))
  here = {'rank': cfg.rank, 'alpha': cfg.alpha, 'targets': names(cfg.targets)}  # refuses unknown targets
  if not cfg.path:
    return None
  adapter = checkpoint.open_peft(cfg.path, source.cfg)
  found = adapter.settings
  there = {'rank': found.rank, 'alpha': found.alpha, 'targets': names(found.targets)}
  for key, value in here.items():
    config_lib.require(
      value == there[key],
      f'lora.{key} is {value}, but the adapter in lora.path {cfg.path} has {there[key]}; set it to that.',
    )
  return adapter


def first_params(cfg, source, abstract, adapter):
  """What a run trains, at step 0: the model's own parameters, or an adapter.

  Args:
    cfg: config.RL or config.SFT. source: checkpoint.Source of the model. abstract: TrainState.
    adapter: checkpoint.Adapter to begin with; None for a new one.
  """
  if not abstract.base:
    return source.load(abstract.params)
  shardings = jax.tree.map(lambda x: x.sharding, abstract.params)
  if adapter:
    return adapter.load(source.cfg, shardings)
  specs = training.specs(cfg.lora, source.cfg)
  init = jax.jit(lambda key: params_lib.init(specs, key), out_shardings=shardings)
  return init(keys.fold_in(jax.random.key(cfg.seed), ADAPTER_KEY))


def load_frozen(source, abstract):
  """`frozen` of a TrainState: with LoRA the model that is adapted; else None. abstract: TrainState."""
  base = abstract.base
  return {'base': base.replace(params=source.load(base.params))} if base else None


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


def load_weights(source, engine):
  """A model's weights as its sampling.Engine samples with them; only this copy stays in memory."""
  abstract = state_lib.abstract_state(models.specs(source.cfg), None, engine.mesh, engine.precision.loaded).params
  return engine.prepare_params(source.load(abstract))
