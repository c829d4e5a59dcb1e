"""A model directory is whole, or one line says what it lacks."""
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.checkpoint import model_dir

CONFIG = {'layers': 2, 'name': '玩具'}


def params():
  return {'embed': jnp.arange(12, dtype=jnp.float32).reshape(3, 4),
          'layers': {'w': jnp.array([1.5, -2.0], jnp.bfloat16), 'b': jnp.float32(3)},
          'transposed': np.arange(6, dtype=np.float32).reshape(2, 3).T}


@pytest.fixture
def saved(tmp_path):
  tokenizer = tmp_path / 'toy.model'
  tokenizer.write_bytes(b'\x0a\x05pieces')
  path = tmp_path / 'models' / 'base'
  model_dir.save_model(path, CONFIG, params(), tokenizer)
  return path


def test_round_trip(saved):
  config, flat, tokenizer = model_dir.load_model(saved)
  assert config == CONFIG and tokenizer.read_bytes() == b'\x0a\x05pieces'
  assert set(flat) == {'embed', 'layers.w', 'layers.b', 'transposed'}
  assert all(v.dtype == np.float32 for v in flat.values())
  want = jax.tree.map(lambda x: np.asarray(x, np.float32), params())
  jax.tree.map(np.testing.assert_array_equal, model_dir.unflatten(flat), want)
  assert [p.name for p in saved.parent.iterdir()] == ['base']
  model_dir.check_tensors(saved, flat, params())


def test_saving_again_replaces(saved):
  model_dir.save_model(saved, {'layers': 3}, {'w': jnp.ones(1)}, saved / 'tokenizer.model')
  config, flat, tokenizer = model_dir.load_model(saved)
  assert config == {'layers': 3} and list(flat) == ['w'] and tokenizer.read_bytes() == b'\x0a\x05pieces'
  assert [p.name for p in saved.parent.iterdir()] == ['base']


def test_a_save_that_fails_leaves_the_old_one(saved):
  with pytest.raises(FileNotFoundError):
    model_dir.save_model(saved, {'layers': 3}, {'w': jnp.ones(1)}, saved / 'no such tokenizer')
  assert model_dir.load_model(saved)[0] == CONFIG


def edit_json(text):
  return lambda path: (path / 'config.json').write_text(text)


def cut(size):
  return lambda path: (path / 'model.safetensors').write_bytes((path / 'model.safetensors').read_bytes()[:size])


@pytest.mark.parametrize('harm, words', [
    (lambda path: (path / 'config.json').unlink(), 'lacks config.json;'),
    (lambda path: (path / 'model.safetensors').unlink(), 'lacks model.safetensors;'),
    (lambda path: [(path / n).unlink() for n in ('config.json', 'tokenizer.model')],
     'lacks config.json and tokenizer.model;'),
    (lambda path: path.rename(path.with_name('gone')), 'is no directory'),
    (edit_json('{"layers": 2'), 'is not JSON'),
    (edit_json('[2]'), 'holds a list, not an object'),
    (lambda path: (path / 'config.json').write_bytes(b'{"name": "\xff"}'), 'is not JSON'),
    (cut(-1), 'truncated or damaged'),
    (cut(40), 'truncated or damaged'),
    (cut(0), 'truncated or damaged'),
    (lambda path: (path / 'model.safetensors').write_bytes(b'\xff' * 100), 'truncated or damaged'),
    (lambda path: (path / 'tokenizer.model').write_bytes(b''), 'is empty'),
])
def test_what_is_wrong_is_said_in_one_line(saved, harm, words):
  harm(saved)
  with pytest.raises(model_dir.ModelDirError) as error:
    model_dir.load_model(saved)
  assert words in str(error.value) and str(saved) in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('change, words', [
    (lambda flat: flat.pop('layers.w'), 'layers.w is missing'),
    (lambda flat: flat.update(extra=np.zeros(1)), 'extra is unknown'),
    (lambda flat: flat.update(embed=np.zeros((4, 3))), 'embed has shape [4, 3], not [3, 4]'),
])
def test_tensors_that_do_not_fit(saved, change, words):
  _, flat, _ = model_dir.load_model(saved)
  change(flat)
  abstract = jax.eval_shape(params)
  with pytest.raises(model_dir.ModelDirError) as error:
    model_dir.check_tensors(saved, flat, abstract)
  assert words in str(error.value) and str(error.value).count(';') == 1


def test_names_that_clash():
  for names in (['a', 'a.b'], ['a.b', 'a'], ['a', 'a.b.c']):
    with pytest.raises(model_dir.ModelDirError, match='clashes'):
      model_dir.unflatten({n: np.zeros(1) for n in names})
  with pytest.raises(ValueError, match='contains a dot'):
    model_dir.flatten({'x': {'a.b': np.zeros(1)}})


def test_config_is_readable(saved):
  text = pathlib.Path(saved / 'config.json').read_text(encoding='utf-8')
  assert '玩具' in text and json.loads(text) == CONFIG


def test_a_digest_tells_models_of_one_shape_apart(saved):
  before = model_dir.digest(saved)
  assert model_dir.digest(saved) == before
  (saved / 'tokenizer.model').write_bytes(b'others')
  tokenizer_changed = model_dir.digest(saved)
  model_dir.save_model(saved, CONFIG, params() | {'embed': jnp.ones((3, 4))}, saved / 'tokenizer.model')
  assert len({before, tokenizer_changed, model_dir.digest(saved)}) == 3
