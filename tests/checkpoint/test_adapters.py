"""Adapters as files: a run's checkpoint opened as a model, and directories of PEFT, whole and damaged."""

import json
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy

from r1jax import checkpoint, config, models, parallel
from r1jax import params as params_lib
from r1jax.checkpoint import adapters
from r1jax.checkpoint.model_dir import ModelDirError
from r1jax.models import lora
from tests.checkpoint.model_dirs import KINDS, MODELS, random_tensors, write

RANK, ALPHA = 3, 6.0
Q = 'base_model.model.model.layers.0.self_attn.q_proj.lora_'


def adapter_tree(cfg, targets=()):
  """Random A and B as NumPy arrays."""
  rng = np.random.default_rng(1)
  specs = lora.adapter_specs(models.specs(cfg), RANK, targets)
  draw = lambda spec: rng.normal(size=spec.shape).astype(np.float32)
  return jax.tree.map(draw, specs, is_leaf=params_lib.is_spec)


def make_run(path, base, tree, targets=()):
  """The folder of a run with LoRA from the model at `base`."""
  source = checkpoint.open_model(base)
  path.mkdir()
  (path / 'config.json').write_text(json.dumps({'model': {'path': str(base)}}))
  identity = {'rank': RANK, 'alpha': ALPHA, 'targets': list(targets), 'base_dtype': 'float32', 'start': ''}
  fingerprint = {'model': source.config, 'base': source.digest, 'lora': identity}
  with checkpoint.Store(path / checkpoint.CHECKPOINTS, config.Checkpoint(every=1), fingerprint) as store:
    store.save(1, {'params': tree})
  return path


def load(source, dtype='keep'):
  return jax.device_get(source.load(source.abstract(parallel.make_mesh(config.Mesh(), jax.devices()[:1]), dtype)))


def expected(params, tree, cfg):
  """W + alpha / rank * A B in float64."""

  def one(w, pair, spec):
    split = int(np.prod(spec.shape[spec.stacked : spec.stacked + spec.fan_in]))
    lead = spec.shape[: spec.stacked]
    a, b = (np.asarray(x, np.float64) for x in (pair['a'], pair['b']))
    product = a.reshape(*lead, split, RANK) @ b.reshape(*lead, RANK, -1)
    return np.asarray(w, np.float64) + ALPHA / RANK * product.reshape(w.shape)

  def walk(w, adapter, spec):
    if not isinstance(w, dict):
      return w if adapter is None else one(w, adapter, spec)
    return {name: walk(x, None if adapter is None else adapter.get(name), spec[name]) for name, x in w.items()}

  return walk(params, tree, models.specs(cfg))


@pytest.fixture(scope='module')
def base(tmp_path_factory):
  """A function: name in MODELS -> its directory, made once."""
  made = {}

  def make(name):
    if name not in made:
      made[name] = tmp_path_factory.mktemp(name)
      write(made[name], MODELS[name], random_tensors(MODELS[name], KINDS['float32']))
    return made[name]

  return make


@pytest.fixture(scope='module')
def exported(base, tmp_path_factory):
  """The folder of a run, and PEFT's directory of its adapter."""
  folder = tmp_path_factory.mktemp('exported')
  run = make_run(folder / 'run', base('llama'), adapter_tree(MODELS['llama']))
  source = checkpoint.open_model(run)
  adapters.save_peft(folder / 'peft', source.adapter, source.cfg, source.base.path)
  return run, folder / 'peft'


@pytest.mark.parametrize('name', ['llama', 'deepseek_v3'])
def test_the_folder_of_a_run_is_the_merged_model(name, base, tmp_path):
  cfg, tree = MODELS[name], adapter_tree(MODELS[name])
  source = checkpoint.open_model(make_run(tmp_path / 'run', base(name), tree))
  want = expected(load(checkpoint.open_model(base(name))), tree, cfg)
  close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)
  jax.tree.map(close, load(source), want)
  narrow = load(source, 'bfloat16')
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x.astype('f4'), y, rtol=0.02, atol=0.02), narrow, want)


def test_a_run_from_the_folder_of_a_run_adapts_the_merged_model(base, tmp_path):
  cfg, tree = MODELS['llama'], adapter_tree(MODELS['llama'], ('mlp.up',))
  first = make_run(tmp_path / 'first', base('llama'), tree, ('mlp.up',))
  second = checkpoint.open_model(make_run(tmp_path / 'second', first, tree, ('mlp.up',)))
  want = expected(expected(load(checkpoint.open_model(base('llama'))), tree, cfg), tree, cfg)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), load(second), want)


def test_a_base_that_was_moved_or_changed_is_reported(base, tmp_path):
  moved = shutil.copytree(base('llama'), tmp_path / 'base')
  run = make_run(tmp_path / 'run', moved, adapter_tree(MODELS['llama']))
  tensors = random_tensors(MODELS['llama'], KINDS['float32'])
  write(moved, MODELS['llama'], tensors | {'model.norm.weight': tensors['model.norm.weight'] + 1})
  with pytest.raises(ModelDirError, match='another model now than the one that the adapter was trained on'):
    checkpoint.open_model(run)
  moved.rename(tmp_path / 'elsewhere')
  with pytest.raises(ModelDirError, match=r'holds an adapter only .*base holds no config.json; .* its new place'):
    checkpoint.open_model(run)
  (run / 'config.json').write_text(json.dumps({'model': {'path': str(base('llama'))}}))
  assert checkpoint.open_model(run).base.path == base('llama')


def test_a_damaged_description_is_reported(base, tmp_path):
  for recorded in (
    {'rank': 0, 'alpha': 1.0, 'targets': []},
    {'rank': 2},
    'x',
    {'rank': '2', 'alpha': 1, 'targets': []},
  ):
    with pytest.raises(ModelDirError, match='does not describe its adapter'):
      adapters.of_step(tmp_path, recorded, '')


@pytest.mark.parametrize('name', ['qwen2', 'deepseek_v3'])
def test_peft_files_come_back_bit_by_bit(name, base, tmp_path):
  cfg, tree = MODELS[name], adapter_tree(MODELS[name])
  source = checkpoint.open_model(make_run(tmp_path / 'run', base(name), tree))
  adapters.save_peft(tmp_path / 'peft', source.adapter, cfg, source.base.path)
  again = checkpoint.open_peft(tmp_path / 'peft', cfg)
  assert (again.settings.rank, again.settings.alpha) == (RANK, ALPHA)
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  back = again.load(cfg, jax.tree.map(lambda _: here, again.specs(cfg), is_leaf=params_lib.is_spec))
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(back), tree)
  merged = checkpoint.open_model(base(name)).with_adapter(tmp_path / 'peft')
  jax.tree.map(np.testing.assert_array_equal, load(merged), load(source))
  assert len({source.digest, merged.digest, source.base.digest}) == 3


def test_peft_files_have_its_names_and_matrices_transposed(exported):
  tensors = safetensors.numpy.load_file(exported[1] / adapters.WEIGHTS)
  tree, llama = adapter_tree(MODELS['llama']), MODELS['llama']
  assert len(tensors) == 2 * 7 * llama.layers
  q = tree['layers']['attention']['q']
  np.testing.assert_array_equal(tensors[f'{Q}A.weight'], q['a'][0].T)
  np.testing.assert_array_equal(tensors[f'{Q}B.weight'], q['b'][0].reshape(RANK, -1).T)
  config = json.loads((exported[1] / adapters.CONFIG).read_text())
  assert (config['r'], config['lora_alpha'], config['peft_type']) == (RANK, ALPHA, 'LORA')
  names = ['down_proj', 'gate_proj', 'k_proj', 'o_proj', 'q_proj', 'up_proj', 'v_proj']
  assert config['target_modules'] == names


def test_target_modules_are_no_longer_than_needed():
  assert adapters._target_modules(MODELS['deepseek_v3'], ('attention.o', 'moe.shared.up')) == [
    'mlp.shared_experts.up_proj',
    'o_proj',
  ]


def edited(folder, config=(), tensors=lambda tensors: tensors):
  text = json.loads((folder / adapters.CONFIG).read_text())
  (folder / adapters.CONFIG).write_text(json.dumps(text | dict(config)))
  safetensors.numpy.save_file(
    tensors(safetensors.numpy.load_file(folder / adapters.WEIGHTS)), folder / adapters.WEIGHTS
  )


def cut_off(folder):
  data = (folder / adapters.WEIGHTS).read_bytes()
  (folder / adapters.WEIGHTS).write_bytes(data[:-100])


def pickled(folder):
  (folder / adapters.WEIGHTS).rename(folder / 'adapter_model.bin')


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (lambda f: edited(f, {'r': 4}), r'lora_A.weight has shape \[3, 16\], not \[4, 16\]'),
    (lambda f: edited(f, {'r': 0}), "'r' is 0"),
    (lambda f: edited(f, {'r': '3'}), "'r' is '3'"),
    (lambda f: edited(f, {'lora_alpha': None}), "'lora_alpha' is missing"),
    (lambda f: edited(f, {'use_dora': True}), "use_dora is 'True', which is not supported, only False"),
    (lambda f: edited(f, {'rank_pattern': {'q_proj': 8}}), 'rank_pattern'),
    (lambda f: edited(f, {'peft_type': 'IA3'}), 'peft_type'),
    (lambda f: edited(f, {'init_lora_weights': 'pissa'}), "'pissa', which changes the base too"),
    (lambda f: edited(f, {'init_lora_weights': []}), 'which changes the base too'),
    (
      lambda f: edited(f, tensors=lambda t: {k: x for k, x in t.items() if k != f'{Q}B.weight'}),
      'q_proj.lora_B.* missing',
    ),
    (lambda f: edited(f, tensors=lambda t: t | {'other.weight': t[f'{Q}A.weight']}), 'other.weight is no matrix'),
    (lambda f: edited(f, tensors=lambda t: t | {f'{Q}A.weight': t[f'{Q}A.weight'][:2]}), r'shape \[2, 16\], not'),
    (lambda f: edited(f, tensors=lambda t: {}), 'it has no tensors'),
    (cut_off, 'is truncated'),
    (pickled, 'adapter_model.bin is a pickle, .* never opened'),
    (lambda f: (f / adapters.CONFIG).unlink(), "holds no adapter_config.json; pass PEFT's directory"),
    (lambda f: (f / adapters.CONFIG).write_text('[]'), 'holds a list, not an object'),
    (lambda f: (f / adapters.CONFIG).write_text('{'), 'is not JSON'),
  ],
)
def test_damaged_peft_files_are_refused_in_one_line(damage, message, exported, tmp_path):
  folder = shutil.copytree(exported[1], tmp_path / 'peft')
  damage(folder)
  with pytest.raises(ModelDirError, match=message) as error:
    checkpoint.open_peft(folder, MODELS['llama'])
  assert '\n' not in str(error.value) and len(str(error.value)) < 700


def test_an_adapter_of_another_model_is_refused(exported):
  with pytest.raises(ModelDirError, match='does not fit the model'):
    checkpoint.open_peft(exported[1], MODELS['deepseek_v3'])
