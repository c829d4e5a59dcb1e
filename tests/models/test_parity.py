"""Every family against transformers: tiny random float32 models, whole, module by module, and as files."""

import copy
import dataclasses
import functools
import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors

from r1jax import config as config_lib
from r1jax import models, parallel
from r1jax import params as params_lib
from r1jax.checkpoint import families, hf
from r1jax.models import attention, mla, moe
from r1jax.models.layers import mlp, rms_norm, rope_tables
from r1jax.sampling import Engine, SamplingParams, row_keys

ORIGINAL = 32  # tokens of context before stretching: most positions here lie beyond it
VOCAB, LENGTHS = 67, (100, 61, 7)
SHAPE = dict(
  vocab_size=VOCAB,
  hidden_size=32,
  num_hidden_layers=2,
  num_attention_heads=4,
  num_key_value_heads=2,
  intermediate_size=48,
  max_position_embeddings=128,
  initializer_range=0.15,
  rms_norm_eps=1e-5,
)
YARN = dict(rope_type='yarn', factor=4.0, original_max_position_embeddings=ORIGINAL, beta_fast=2.0)
MIXED = dict(head_dim=16, num_experts=8, num_experts_per_tok=3, moe_intermediate_size=24)
LATENT = dict(
  num_hidden_layers=3,
  num_key_value_heads=4,
  rms_norm_eps=1e-6,
  kv_lora_rank=18,
  qk_nope_head_dim=12,
  qk_rope_head_dim=8,
  v_head_dim=10,
  moe_intermediate_size=24,
  num_experts_per_tok=3,
  first_k_dense_replace=1,
  num_nextn_predict_layers=0,
)

# {name: (prefix of transformers' classes, rope_theta, rope_scaling or None, the rest)}. With so small a theta the range
# over which stretching sets in holds some of the few dimensions there are.
TINY = {
  'llama': (
    'Llama',
    50.0,
    dict(
      rope_type='llama3',
      factor=8.0,
      low_freq_factor=1.0,
      high_freq_factor=4.0,
      original_max_position_embeddings=ORIGINAL,
    ),
    {},
  ),
  'qwen2': ('Qwen2', 50.0, YARN, {}),
  'qwen2_tied': ('Qwen2', 1e4, None, dict(tie_word_embeddings=True)),
  'qwen3': ('Qwen3', 50.0, dict(rope_type='linear', factor=4.0), dict(head_dim=16)),
  'qwen3_moe': ('Qwen3Moe', 50.0, YARN | dict(truncate=False, attention_factor=1.3), MIXED | dict(norm_topk_prob=True)),
  'qwen3_moe_plain': ('Qwen3Moe', 1e6, None, MIXED | dict(norm_topk_prob=False, tie_word_embeddings=True)),
  'deepseek_v3': (
    'DeepseekV3',
    50.0,
    YARN | dict(mscale=1.0, mscale_all_dim=0.8),
    LATENT | dict(q_lora_rank=20, n_routed_experts=16, n_group=4, topk_group=2, n_shared_experts=1),
  ),
  'deepseek_v3_plain': (
    'DeepseekV3',
    1e4,
    None,
    LATENT
    | dict(
      q_lora_rank=None,
      n_routed_experts=8,
      n_group=1,
      topk_group=1,
      n_shared_experts=2,
      norm_topk_prob=False,
      routed_scaling_factor=1.0,
    ),
  ),
}
MIXTURES = [name for name in TINY if 'moe' in name or 'deepseek' in name]
SCALED = [name for name, (_, _, scaling, _) in TINY.items() if scaling]


@dataclasses.dataclass(frozen=True)
class Tiny:
  """A model of transformers in float32, its directory, and what we read from there."""

  model: object
  path: object
  config: dict
  cfg: models.ModelConfig
  params: dict


@pytest.fixture(scope='module')
def transformers():
  reason = "needs PyTorch and transformers: pip install -e '.[torch-parity]'."
  pytest.importorskip('torch', reason=reason)
  library = pytest.importorskip('transformers', reason=reason)
  library.logging.disable_progress_bar()
  return library


@pytest.fixture(scope='module')
def tiny(transformers, tmp_path_factory):
  """A function: name in TINY, suffix of a class -> Tiny, made once."""
  import torch

  @functools.cache
  def make(name, suffix='ForCausalLM'):
    prefix, theta, scaling, rest = TINY[name]
    more = {} if suffix == 'ForCausalLM' else dict(num_labels=1, pad_token_id=0)
    config = getattr(transformers, prefix + 'Config')(
      **SHAPE | rest | more, rope_parameters=dict(rope_theta=theta, **scaling or dict(rope_type='default'))
    )
    torch.manual_seed(0)
    model = getattr(transformers, prefix + suffix)._from_config(config, attn_implementation='eager').eval()
    with torch.no_grad():  # what is made as ones or zeros must matter too
      for key, x in [*model.named_parameters(), *model.named_buffers()]:
        if 'norm' in key or 'bias' in key:
          x.add_(0.1 * torch.randn_like(x))
        if key.endswith('gate.weight'):  # routers: scores further apart
          x.mul_(3)
      model.model.norm.weight.normal_()  # else a tied model repeats its last token
    path = tmp_path_factory.mktemp(name)
    model.save_pretrained(path)
    return Tiny(model, path, *read(path))

  return make


def read(path):
  """A model directory's config.json, ModelConfig and parameters, each in its dtype on disk."""
  config = hf.read_config(path)
  cfg = families.from_hf(config, path)
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  shardings = jax.tree.map(lambda _: here, models.specs(cfg), is_leaf=params_lib.is_spec)
  dtypes = hf.dtypes(cfg, hf.open_files(path, cfg, config))
  return config, cfg, hf.load(path, cfg, config, params_lib.abstract(models.specs(cfg), dtypes, shardings))[0]


@functools.partial(jax.jit, static_argnames='cfg')
def hidden(params, cfg, tokens):
  """Final hidden states [B, T, embed] of tokens [B, T]."""
  positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
  return models.forward(params, cfg, tokens[:, None], positions[:, None]).hidden[:, 0]


def logits(params, cfg, tokens):
  return np.asarray(hidden(params, cfg, tokens) @ models.unembedding(params).T)


def theirs(model, tokens, **options):
  """Logits of transformers, as NumPy."""
  import torch

  with torch.no_grad():
    return model(torch.tensor(tokens), **{k: torch.tensor(v) for k, v in options.items()}).logits.numpy()


def batch(seed=0):
  return np.random.default_rng(seed).integers(1, VOCAB, (len(LENGTHS), max(LENGTHS)))


# The whole model.


@pytest.mark.parametrize('name', TINY)
def test_logits_agree(tiny, name):
  """Alone, padded on either side, and beyond the original context."""
  m, tokens, size = tiny(name), batch(), max(LENGTHS)
  got = logits(m.params, m.cfg, tokens)
  want = theirs(m.model, tokens)
  assert 0.3 < want.std() < 3
  np.testing.assert_allclose(got, want, rtol=0, atol=2e-5)
  real = np.arange(size) < np.array(LENGTHS)[:, None]
  padded = logits(m.params, m.cfg, np.where(real, tokens, 17))
  right = theirs(m.model, np.where(real, tokens, 0), attention_mask=real.astype(int))
  np.testing.assert_allclose(padded[real], right[real], rtol=0, atol=2e-5)
  turned = real[:, ::-1]  # the same rows, moved to the end
  shifted = np.zeros_like(tokens)
  shifted[turned] = tokens[real]
  positions = np.maximum(turned.cumsum(axis=1) - 1, 0)
  left = theirs(m.model, shifted, attention_mask=turned.astype(int), position_ids=positions)
  np.testing.assert_allclose(padded[real], left[turned], rtol=0, atol=2e-5)


@pytest.mark.parametrize('name', SCALED)
def test_scaling_is_at_work(tiny, name):
  """The same weights with plain RoPE say something else: the test above cannot pass without scaling."""
  m = tiny(name)
  assert max(LENGTHS) > 3 * ORIGINAL
  plain = type(m.model)(
    type(m.model.config).from_dict(
      m.config | {'rope_parameters': {'rope_type': 'default', 'rope_theta': TINY[name][1]}}
    )
  ).eval()
  plain.load_state_dict(m.model.state_dict())
  assert np.abs(theirs(plain, batch()) - theirs(m.model, batch())).max() > 0.05


class NoEnd:
  eos = (VOCAB,)


@pytest.mark.parametrize('name', [name for name in TINY if not name.endswith('_plain')])
def test_greedy_generation_is_equal(tiny, name):
  import torch

  m, new = tiny(name), 64
  prompts = [batch(seed=3)[0, :40].tolist(), batch(seed=3)[1, :23].tolist()]
  rows = np.zeros((2, 40), int)
  for row, prompt in zip(rows, prompts):
    row[40 - len(prompt) :] = prompt
  out = m.model.generate(
    torch.tensor(rows),
    attention_mask=torch.tensor((rows > 0).astype(int)),
    do_sample=False,
    max_new_tokens=new,
    eos_token_id=None,
    pad_token_id=0,
    output_scores=True,
    return_dict_in_generate=True,
  )
  want = out.sequences[:, 40:].numpy()
  best = np.sort(torch.stack(out.scores).numpy(), axis=-1)
  assert (best[..., -1] - best[..., -2]).min() > 1e-4  # no near-tie: each may be off by 2e-5
  assert want.shape == (2, new) and min(len(set(row)) for row in want.tolist()) > 4
  engine = Engine(
    m.cfg, NoEnd(), parallel.make_mesh(config_lib.Mesh(), jax.devices()[:1]), max_prompt=40, max_response=new
  )
  got = engine.sample(m.params, prompts, row_keys(jax.random.key(0), 2, 2), SamplingParams(temperature=0.0))
  assert set(got.stop.flat) == {'length'}
  np.testing.assert_array_equal(got.tokens.reshape(4, -1), want.repeat(2, axis=0))


# Module by module.


@pytest.fixture(scope='module')
def traced(tiny):
  """A function: name -> {(layer, module): (input, output)} of one forward of transformers, outputs as NumPy."""
  import torch

  @functools.cache
  def trace(name):
    model, found, handles = tiny(name).model, {}, []
    numpy = lambda x: tuple(y.numpy() for y in x if y is not None) if isinstance(x, tuple) else x.numpy()
    for i, layer in enumerate(model.model.layers):
      for key, module in layer.named_modules():

        def note(module, args, kwargs, out, at=(i, key)):
          found[at] = numpy((args or tuple(kwargs.values()))[0]), numpy(out)

        handles.append(module.register_forward_hook(note, with_kwargs=True))
    with torch.no_grad():
      model(torch.tensor(batch()))
    for handle in handles:
      handle.remove()
    return found

  return trace


def layers(m):
  """Our parameters of each layer, in order."""
  split = models.unstack(m.params)
  return [p for run in models.layer_groups(m.cfg) for p in split[run]]


@pytest.mark.parametrize('name', TINY)
def test_norms_agree(tiny, traced, name):
  m, count = tiny(name), 0
  ours = {
    'input_layernorm': lambda p: p['attention_norm'],
    'post_attention_layernorm': lambda p: p['mlp_norm'],
    **{f'self_attn.{x}_norm': lambda p, x=x: p['attention'][f'{x}_norm'] for x in 'qk'},
    **{f'self_attn.{x}_layernorm': lambda p, x=x: p['attention'][f'{x}_norm'] for x in ('q_a', 'kv_a')},
  }
  for (i, key), (x, want) in traced(name).items():
    if key in ours:
      np.testing.assert_allclose(rms_norm(ours[key](layers(m)[i]), x, m.cfg.norm_eps), want, rtol=0, atol=5e-6)
      count += 1
  latent = m.cfg.mla and 1 + bool(m.cfg.mla.q_rank)
  assert count == m.cfg.layers * (2 + (latent or 2 * m.cfg.qk_norm))


@pytest.mark.parametrize('name', TINY)
def test_attention_agrees(tiny, traced, name):
  """Latent attention in both its forms."""
  m, size = tiny(name), max(LENGTHS)
  tables = rope_tables(jnp.arange(size)[None, None], m.cfg)
  seen = jnp.tril(jnp.ones((size, size), bool))[None, None]
  mixer = mla if m.cfg.mla else attention

  @functools.partial(jax.jit, static_argnames='options')
  def ours(p, x, options):
    q, kv = mixer.project(p, m.cfg, x[:, None], tables)
    return mixer.attend(p, m.cfg, q, [(kv, seen)], **dict(options))[:, 0]

  for i, p in enumerate(layers(m)):
    x, (want, _) = traced(name)[i, 'self_attn']
    for options in ((('absorbed', False),), (('absorbed', True),)) if m.cfg.mla else ((),):
      np.testing.assert_allclose(ours(p['attention'], x, options), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize('name', TINY)
def test_mlps_and_mixtures_agree(tiny, traced, name):
  """Whole, shared experts included; and the routed experts alone."""
  m, seen = tiny(name), 0
  for i, p in enumerate(layers(m)):
    x, want = traced(name)[i, 'mlp']
    if 'mlp' in p:
      np.testing.assert_allclose(mlp(p['mlp'], x), want, rtol=0, atol=1e-5)
      continue
    np.testing.assert_allclose(moe.moe(p['moe'], m.cfg.moe, x)[0], want, rtol=0, atol=1e-5)
    rows, want = traced(name)[i, 'mlp.experts']
    got, load, _ = moe.moe(p['moe'], dataclasses.replace(m.cfg.moe, shared=0), rows)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    _, (_, _, experts) = traced(name)[i, 'mlp.gate']
    np.testing.assert_array_equal(load, np.bincount(experts.ravel(), minlength=m.cfg.moe.experts))
    seen += 1
  assert seen == m.cfg.layers - m.cfg.dense_layers


def spread(weights, experts, count):
  """Each token's weight for each expert, [N, count], 0 where it does not go."""
  out = np.zeros((len(experts), count))
  np.put_along_axis(out, np.asarray(experts), np.asarray(weights), axis=1)
  return out


@pytest.mark.parametrize('name', MIXTURES)
def test_routers_agree(tiny, traced, name):
  """The same experts with the same weights; and correction biases, groups and normalisation each change the outcome."""
  m, changed = tiny(name), {'bias': 0, 'groups': 0, 'normalise': 0}
  for i, p in enumerate(layers(m)):
    if 'moe' not in p:
      continue
    x, (_, weights, experts) = traced(name)[i, 'mlp.gate']
    x, c = x.reshape(-1, m.cfg.embed), m.cfg.moe
    want = spread(weights, experts, c.experts)
    assert (want > 0).sum() == len(x) * c.top_k
    go = lambda p, c, x=x: spread(*moe.route(p, c, x), c.experts)
    got = go(p['moe'], c)
    np.testing.assert_array_equal(got > 0, want > 0)
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6)
    unbiased = {k: v for k, v in p['moe'].items() if k != 'router_bias'}
    changed['bias'] += ((go(unbiased, c) > 0) != (want > 0)).any(axis=1).sum()
    ungrouped = go(p['moe'], dataclasses.replace(c, groups=1, top_groups=1))
    changed['groups'] += ((ungrouped > 0) != (want > 0)).any(axis=1).sum()
    other = go(p['moe'], dataclasses.replace(c, normalise=not c.normalise))
    changed['normalise'] += (np.abs(other - want).max(axis=1) > 1e-3).sum()
  least = 10  # tokens of 300 a layer
  assert (changed['bias'] > least) == (m.cfg.moe.score == 'sigmoid')
  assert (changed['groups'] > least) == (m.cfg.moe.groups > 1)
  assert changed['normalise'] > least


# Heads.


def test_scores_are_the_sequence_classifiers(tiny):
  """A reward is read off a row's last token, wherever its padding begins."""
  m, tokens = tiny('qwen2', 'ForSequenceClassification'), batch()
  lengths = np.array(LENGTHS)
  rows = np.where(np.arange(tokens.shape[1]) < lengths[:, None], tokens, 0)
  every = models.scores(m.params, hidden(m.params, m.cfg, rows))
  want = theirs(m.model, rows, attention_mask=(rows > 0).astype(int))
  assert want.shape == (3, 1) and np.ptp(want) > 0.1
  np.testing.assert_allclose(models.score_at(every, jnp.asarray(lengths - 1)), want[:, 0], rtol=0, atol=2e-5)


# Files.


def tensors_of(path):
  """{name: (dtype, shape, bytes)} of a directory's tensors."""
  import torch

  found = {}
  for file in path.glob('*.safetensors'):
    with safetensors.safe_open(file, 'pt') as f:
      for name in f.keys():
        x = f.get_tensor(name)
        found[name] = x.dtype, tuple(x.shape), x.contiguous().view(torch.uint8).numpy().tobytes()
  return found


@pytest.fixture
def warnings_of(transformers):
  """What transformers logs as a warning or worse, messages."""
  said = []
  handler = logging.Handler(logging.WARNING)
  handler.emit = lambda record: said.append(record.getMessage())
  logging.getLogger('transformers').addHandler(handler)
  yield said
  logging.getLogger('transformers').removeHandler(handler)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
@pytest.mark.parametrize('name', [*TINY, 'classifier'])
def test_files_come_back_bit_for_bit(tiny, transformers, warnings_of, tmp_path, name, dtype):
  import torch

  m = tiny('qwen2', 'ForSequenceClassification') if name == 'classifier' else tiny(name)
  first = copy.deepcopy(m.model).to(getattr(torch, dtype))
  first.save_pretrained(tmp_path / 'a')
  config, cfg, params = read(tmp_path / 'a')
  hf.save(tmp_path / 'b', cfg, params, families.for_export(config, dtype))
  want, got = tensors_of(tmp_path / 'a'), tensors_of(tmp_path / 'b')
  assert {dtype for dtype, _, _ in want.values()} == {getattr(torch, dtype)}
  assert got == want
  warnings_of.clear()
  second, report = type(m.model).from_pretrained(tmp_path / 'b', dtype='auto', output_loading_info=True)
  assert not any(report.values()) and not warnings_of, (report, warnings_of)
  before, after = first.state_dict(), second.state_dict()
  assert before.keys() == after.keys() and second.dtype == first.dtype
  assert all(torch.equal(before[key].float(), after[key].float()) for key in before)


def older(config, key):
  """The same config.json as transformers 4 wrote it; `key` names the kind of rope."""
  rope = dict(config['rope_parameters'])
  theta, kind = rope.pop('rope_theta'), rope.pop('rope_type')
  rest = {k: v for k, v in config.items() if k not in ('rope_parameters', 'dtype')}
  return rest | dict(rope_theta=theta, rope_scaling=None if kind == 'default' else {key: kind, **rope})


@pytest.mark.parametrize('name', TINY)
def test_either_form_of_rope_in_a_config_is_read(tiny, name):
  m = tiny(name)
  assert 'rope_parameters' in m.config and 'rope_scaling' not in m.config
  for key in ('type', 'rope_type'):
    assert families.from_hf(older(m.config, key), 'here') == m.cfg


@pytest.mark.parametrize('name', TINY)
def test_transformers_reads_a_config_of_ours(tiny, warnings_of, tmp_path, name):
  m = tiny(name)
  config = families.to_hf(m.cfg)
  assert families.from_hf(json.loads(json.dumps(config)), 'here') == m.cfg
  hf.save(tmp_path / 'ours', m.cfg, m.params, families.for_export(config, 'float32'))
  warnings_of.clear()
  again = type(m.model).from_pretrained(tmp_path / 'ours', attn_implementation='eager').eval()
  assert not warnings_of
  np.testing.assert_array_equal(theirs(again, batch()), theirs(m.model, batch()))


@pytest.mark.parametrize('name', models.PRESETS)
def test_presets_are_transformers_models_of_the_same_size(transformers, name):
  """Built without memory for their tensors. Correction biases are no parameters there, but buffers."""
  import torch

  cfg = models.PRESETS[name]
  config = families.to_hf(cfg)
  assert families.from_hf(config, 'here') == cfg
  with torch.device('meta'):
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**config))
  biases = sum(x.numel() for key, x in model.named_buffers() if key.endswith('e_score_correction_bias'))
  assert params_lib.count(models.specs(cfg)) == model.num_parameters() + biases
  ours = {t.name: t.shape for leaf in families.tensors(cfg).values() for t in leaf.values()}
  want = {key: tuple(x.shape) for key, x in model.state_dict().items() if key in ours}
  fused = {key for key in ours if '.mlp.experts.' in key}  # one tensor a layer there
  assert want == {key: shape for key, shape in ours.items() if key not in fused}
