"""How far the sampler's log-probs are from the trainer's, for each precision of the sampler, as a Markdown table.

  python -m experiments.mismatch --model.path=models/smollm2.gguf
  JAX_NUM_CPU_DEVICES=4 python -m experiments.mismatch --preset=toy_deepseek     (sharded too, where there are devices)

Prompts are stories (`r1jax.data.toy.stories`), or random tokens for the random weights of --preset. Each row samples
with its own precision; the trainer computes in --dtype what it thinks of these tokens. `mean` and `max` are of the
absolute difference of the log-probs. `KL` is the mean of r - 1 - log r with r = trainer / sampler, an estimate of
KL(sampler, trainer). `outside` is the share of tokens for which r is below 1/2 or above 2.

A mixture of experts has each row twice: with the trainer's own choice of experts, and with the sampler's
(train.routing_replay). `rerouted` is the share of tokens that the trainer's own choice sends to another expert in at
least one layer.
"""

import functools
import sys
import types

from absl import app, flags
import jax
import numpy as np

from r1jax import checkpoint, models, parallel, sampling, templates
from r1jax import config as config_lib
from r1jax import params as params_lib
from r1jax.data.toy import stories
from r1jax.rollout.prompts import encode_prompt
from r1jax.runs import cli, runtime
from r1jax.training import policy

PRECISIONS = {
  'float32': sampling.Precision('float32'),
  'bfloat16': sampling.Precision('bfloat16'),
  'int8 weights': sampling.Precision('float32', weights='int8'),
  'int8 weights and cache': sampling.Precision('float32', weights='int8', cache='int8'),
  'int4 weights': sampling.Precision('float32', weights='int4'),
}


def meshes():
  """{how the devices are used: mesh}: one of them, and all of them over fsdp and tp."""
  one = dict(data=1, fsdp=1, expert=1, tp=1, seq=1)
  count = jax.device_count()
  shapes = {'one device': one}
  if count >= 4:
    shapes[f'fsdp=2, tp={count // 2}'] = one | dict(fsdp=2, tp=count // 2)
  return {
    name: parallel.make_mesh(config_lib.Mesh(**shape), jax.devices()[: np.prod(list(shape.values()))])
    for name, shape in shapes.items()
  }


def open_model(f):
  """ModelConfig, host parameters in float32, prompts as ids, and the ids that end a response."""
  path = f['model.path'].value
  config_lib.require(bool(path) != f['preset'].present, 'set one of --model.path and --preset.')
  if not path:
    model = models.PRESETS[f.preset]
    params = jax.jit(functools.partial(params_lib.init, models.specs(model)))(jax.random.key(0))
    prompts = np.random.default_rng(0).integers(3, model.vocab, (f.prompts, 32)).tolist()
    return model, jax.device_get(params), prompts, ()
  source = checkpoint.open_model(path)
  tokenizer = source.load_tokenizer()
  template = templates.TEMPLATES['chat_boxed' if tokenizer.chats else 'plain']
  problems = stories.problems(0, f.prompts, held_out=True)
  prompts = [encode_prompt(tokenizer, template, problem)[1] for problem in problems]
  mesh = parallel.make_mesh(config_lib.Mesh(), jax.devices()[:1])
  return source.cfg, jax.device_get(source.load(source.abstract(mesh, 'float32'))), prompts, tokenizer.eos


@functools.partial(jax.jit, static_argnames=('model', 'options'))
def own_experts(params, batch, *, model, options):
  """uint[P, G, MoE layers, top_k, T - 1] of the responses of a RolloutBatch."""
  given = batch.prompts, batch.prompt_lengths, batch.tokens, batch.lengths
  return models.response_hidden(params, model, *given, options).experts


def rerouted(own, batch):
  """Share of the responses' tokens that have other experts than the sampler's; own: as `own_experts` gives them."""
  same_order = lambda x: np.sort(x, axis=3)
  other = (same_order(own) != same_order(batch.experts[..., :-1])).any(axis=(2, 3))
  return other[batch.loss_mask[..., 1:]].mean()  # tokens before another one: the last was never run


def differences(trainer, batch):
  """(mean, max, KL, share outside) of the trainer's log-probs f32[P, G, T]."""
  difference = (np.asarray(trainer, np.float64) - batch.sampler_logp)[batch.loss_mask]
  ratio = np.exp(difference)
  outside = (ratio < 0.5) | (ratio > 2)
  return np.abs(difference).mean(), np.abs(difference).max(), (ratio - 1 - difference).mean(), outside.mean()


def measure(model, params, prompts, eos, mesh, precision, f):
  """Rows of the table. params: on the mesh, in float32.

  Returns:
    [(mean, max, KL, share outside)]; of a mixture two of them: (..., share rerouted), and one with replay.
  """
  engine = sampling.Engine(
    model,
    types.SimpleNamespace(eos=eos),
    mesh,
    max_prompt=max(map(len, prompts)),
    max_response=f.new_tokens,
    precision=precision,
  )
  keys = jax.device_put(sampling.row_keys(jax.random.key(0), len(prompts), f.samples), parallel.replicated(mesh))
  batch = engine.sample(params, prompts, keys, sampling.SamplingParams(f.temperature, experts=bool(model.moe)))
  options = models.ForwardOptions(f.dtype, mesh=mesh, return_experts=bool(model.moe))
  fn = policy.LogProbFn(model, options, 1024, f.temperature)
  on_mesh = parallel.to_global(batch.replace(stop=None, policy_version=None), parallel.batch_sharding(mesh))
  row = lambda b: differences(parallel.to_host(policy.logprobs_program(params, b, fn=fn)), batch)
  own = row(on_mesh.without_experts())
  if not model.moe:
    return [own]
  experts = parallel.to_host(own_experts(params, on_mesh, model=model, options=options))
  return [(*own, rerouted(experts, batch)), row(on_mesh)]


def main(argv):
  f = flags.FLAGS
  if len(argv) > 1:
    sys.exit('usage: python -m experiments.mismatch --model.path=PATH | --preset=NAME [--flags]; see --help.')
  with cli.errors_in_one_line():
    runtime.set_up_process()
    model, host_params, prompts, eos = open_model(f)
    print(f'{f["model.path"].value or f.preset}, trainer in {f.dtype}, {f.prompts} x {f.samples} responses\n')
    columns = ['sampler', 'devices', 'mean', 'max', 'KL', 'outside', *['rerouted'] * bool(model.moe)]
    print(f'| {" | ".join(columns)} |\n{"|---" * len(columns)}|')
    for devices, mesh in meshes().items():
      params = jax.device_put(host_params, parallel.shardings(models.specs(model), mesh))
      for name, precision in PRECISIONS.items():
        for how, row in zip(('', ', replay'), measure(model, params, prompts, eos, mesh, precision, f)):
          cells = [f'{x:.2g}' for x in row[:3]] + [f'{100 * x:.2g}%' for x in row[3:]]
          cells = [name + how, devices, *cells, *[''] * (len(columns) - 2 - len(cells))]
          print(f'| {" | ".join(cells)} |', flush=True)


if __name__ == '__main__':
  flags.DEFINE_string('model.path', '', 'A model directory, file or run.')
  flags.DEFINE_enum('preset', 'bench', list(models.PRESETS), 'Shape of a random model, without --model.path.')
  flags.DEFINE_enum('dtype', 'float32', ['float32', 'bfloat16'], "Of the trainer's computation.")
  flags.DEFINE_integer('prompts', 8, 'Number of prompts.', lower_bound=1)
  flags.DEFINE_integer('samples', 4, 'Responses to each prompt.', lower_bound=1)
  flags.DEFINE_integer('new_tokens', 64, 'Maximum tokens of a response.', lower_bound=1)
  flags.DEFINE_float('temperature', 1.0, 'Temperature.')
  app.run(main)
