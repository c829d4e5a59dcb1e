"""A real model: SmolLM2-135M-Instruct in 4 bits, against the gguf library and a tokenizer built by hand."""

import functools
import pathlib

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers as library

from r1jax import checkpoint, config, models, parallel, tokenizers
from tests.checkpoint import gguf_writing
from tests.tokenizers import conftest as nasty

PATH = pathlib.Path(__file__).parents[2] / 'models' / 'smollm2.gguf'
pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(not PATH.exists(), reason='needs models/smollm2.gguf: scripts/get_smollm2'),
]


@pytest.fixture(scope='module')
def reader():
  return gguf.GGUFReader(PATH)


@pytest.fixture(scope='module')
def loaded():
  source = checkpoint.open_model(PATH)
  return source, source.load(source.abstract(parallel.make_mesh(config.Mesh())))


def test_parameters_are_those_of_the_library(reader, loaded):
  source, params = loaded
  assert source.config['eos_token_id'] == 2 and source.cfg.tied and source.cfg.rope_theta == 100_000
  values = {t.name: gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32) for t in reader.tensors}
  want = gguf_writing.as_hf(source.cfg, values)
  layers, read = params['layers'], {}
  flat = lambda x: np.asarray(x).reshape(x.shape[0], -1).T  # [in, ...out] -> [out, in]
  for n in range(source.cfg.layers):
    at, attention, mlp = f'model.layers.{n}', layers['attention'], layers['mlp']
    read |= {f'{at}.self_attn.{x}_proj.weight': flat(attention[x][n]) for x in 'qkv'}
    read[f'{at}.self_attn.o_proj.weight'] = np.asarray(attention['o'][n]).reshape(-1, source.cfg.embed).T
    read |= {f'{at}.mlp.{x}_proj.weight': flat(mlp[x][n]) for x in ('gate', 'up', 'down')}
    read[f'{at}.input_layernorm.weight'] = np.asarray(layers['attention_norm'][n])
    read[f'{at}.post_attention_layernorm.weight'] = np.asarray(layers['mlp_norm'][n])
  read |= {'model.embed_tokens.weight': np.asarray(params['embed']), 'model.norm.weight': np.asarray(params['norm'])}
  assert read.keys() == want.keys() and len(want) == 272
  assert [name for name, x in want.items() if x.dtype != np.float32 or not np.array_equal(read[name], x)] == []


def test_it_encodes_as_a_tokenizer_built_by_hand(reader):
  get = lambda key: reader.fields[f'tokenizer.ggml.{key}'].contents()
  tokens, kinds = get('tokens'), get('token_type')
  hand = library.Tokenizer(
    library.models.BPE({t: i for i, t in enumerate(tokens)}, [tuple(m.split(' ')) for m in get('merges')])
  )
  hand.pre_tokenizer = library.pre_tokenizers.Sequence(
    [library.pre_tokenizers.Digits(individual_digits=True), library.pre_tokenizers.ByteLevel(add_prefix_space=False)]
  )
  hand.add_special_tokens(
    [library.AddedToken(t, special=True, normalized=False) for t, kind in zip(tokens, kinds) if kind == 3]
  )
  ours = tokenizers.load(PATH)
  texts = nasty.TEXTS[:220]
  assert [text for text in texts if ours.encode(text, special=True) != hand.encode(text).ids] == []
  assert ours.vocab == 49_152 and ours.eos == (2,) and len(ours.special) == 17


@functools.partial(jax.jit, static_argnames='cfg')
def hidden_of(params, cfg, tokens, positions):
  return models.forward(params, cfg, tokens, positions).hidden


def test_it_answers(loaded):
  source, params = loaded
  tokenizer = source.load_tokenizer()
  ids = tokenizer.chat([{'role': 'user', 'content': 'What is the capital of France?'}])
  for _ in range(8):
    tokens = np.array(ids + [0] * (64 - len(ids)))[None, None]
    positions = jnp.arange(64)[None, None]
    hidden = hidden_of(params, source.cfg, jnp.asarray(tokens), positions)
    ids.append(int(np.argmax(hidden[0, 0, len(ids) - 1] @ models.unembedding(params).T)))
  assert 'Paris' in tokenizer.decode(ids)
