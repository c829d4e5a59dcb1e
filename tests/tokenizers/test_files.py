"""Which file is taken, and what is said of files that are missing or broken."""
import hashlib
import json
import shutil

import pytest

from r1jax import tokenizers
from r1jax.data import toy


def edited(source, path, name='tokenizer.json', **changes):
  """A copy of a directory in which keys of one JSON file are changed."""
  shutil.copytree(source, path)
  (path / name).write_text(json.dumps(json.loads((path / name).read_text()) | changes))
  return path


def error_of(path):
  with pytest.raises(tokenizers.TokenizerError) as error:
    tokenizers.load(path)
  assert '\n' not in str(error.value) and str(path) in str(error.value)
  return str(error.value)


def test_a_directory_and_its_file_are_one_tokenizer(directory):
  of_directory = tokenizers.load(directory)
  of_file = tokenizers.load(of_directory.path)
  assert (of_file.path, of_file.eos, of_file.vocab) == (of_directory.path, of_directory.eos, of_directory.vocab)
  assert tokenizers.load(directory / 'tokenizer.json' if directory.name != 'ours' else directory / 'tokenizer.model')


def test_sentencepiece_is_read_from_its_own_model(sentencepiece, qwen, tmp_path):
  assert tokenizers.load(sentencepiece).path.endswith('tokenizer.model')
  shutil.copytree(qwen, tmp_path / 'm')
  shutil.copy(sentencepiece / 'tokenizer.model', tmp_path / 'm')
  assert tokenizers.load(tmp_path / 'm').path.endswith('tokenizer.json')
  assert 'not byte-level' in error_of(sentencepiece / 'tokenizer.json')


def test_files_are_those_that_are_there(qwen, sentencepiece, tmp_path):
  names = lambda path: [name.rsplit('/', 1)[1] for name in tokenizers.files(path)]
  assert names(qwen) == ['tokenizer.json', 'tokenizer_config.json', 'generation_config.json']
  assert names(sentencepiece) == ['tokenizer.json', 'tokenizer.model', 'tokenizer_config.json']
  (tmp_path / 'vocab.json').write_text('{}')
  with pytest.raises(tokenizers.TokenizerError, match='no tokenizer there; pass a model directory'):
    tokenizers.files(tmp_path)


def test_what_is_missing_is_said(tmp_path):
  for path in (tmp_path, tmp_path / 'nothing', tmp_path / 'tokenizer.model'):
    assert 'no tokenizer there; pass a model directory' in error_of(path)


@pytest.mark.parametrize('name, content, said', [
    ('tokenizer.json', '{"a": ', 'cannot be read as JSON'), ('tokenizer.json', '[]', 'holds a list, not an object'),
    ('tokenizer.json', '{}', 'not byte-level'), ('tokenizer.json', '\udcff', 'cannot be read as JSON'),
    ('tokenizer.json', '{"decoder": {"type": "ByteLevel"}, "model": 3}', 'not a tokenizer'),
    ('tokenizer_config.json', '{', 'cannot be read as JSON'), ('generation_config.json', '3', 'holds a int'),
    ('tokenizer_config.json', '{"added_tokens_decoder": {"x": {}}}', 'added tokens'),
    ('tokenizer_config.json', '{"added_tokens_decoder": [1]}', 'added tokens'),
    ('generation_config.json', '{"eos_token_id": "</s>"}', "generation_config.json beside it is '</s>', not an id"),
    ('config.json', '{"eos_token_id": [-1]}', 'not an id'),
])
def test_a_broken_file_is_named(qwen, tmp_path, name, content, said):
  path = tmp_path / 'm'
  shutil.copytree(qwen, path)
  (path / name).write_bytes(content.encode(errors='surrogateescape'))
  assert said in error_of(path)


def test_a_broken_sentencepiece_model_is_named(tmp_path):
  (tmp_path / 'tokenizer.model').write_bytes(b'not one')
  assert 'not a SentencePiece model' in error_of(tmp_path)


def test_a_tokenizer_without_an_end_is_refused(qwen, tmp_path):
  path = edited(qwen, tmp_path / 'm', 'tokenizer_config.json', eos_token=None)
  assert len(tokenizers.load(path).eos) == 2              # generation_config.json still names them
  (path / 'generation_config.json').unlink()
  assert 'no token ends a text' in error_of(path)


def test_an_added_token_that_takes_spaces_is_refused(qwen, tmp_path):
  added = json.loads((qwen / 'tokenizer.json').read_text())['added_tokens']
  path = edited(qwen, tmp_path / 'm', added_tokens=[added[0] | {'lstrip': True}, *added[1:]])
  assert "'<|endoftext|>' strips spaces" in error_of(path)


def named_special(qwen):
  return {'pad_token': '<think>'}


def listed_special(qwen):
  more = {qwen.added['</think>']: '</think>', qwen.vocab: '<|tool|>'}
  return {'added_tokens_decoder': {
      str(i): {'content': token, 'special': True, 'normalized': False} for i, token in more.items()}}


@pytest.mark.parametrize('changes', [named_special, listed_special])
def test_the_configuration_makes_tokens_special(qwen, tmp_path, reference, changes):
  path = edited(qwen, tmp_path / 'm', 'tokenizer_config.json', **changes(tokenizers.load(qwen)))
  ours, theirs, text = tokenizers.load(path), reference(path), '<think>a</think><|tool|>'
  assert ours.vocab == len(theirs) == tokenizers.load(qwen).vocab + (changes is listed_special)
  for special in (False, True):
    ids = ours.encode(text, special=special)
    assert ids == theirs.encode(text, add_special_tokens=False, split_special_tokens=not special)
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


def test_special_tokens_map_counts_where_the_configuration_is_silent(qwen, tmp_path, reference):
  path = tmp_path / 'm'
  shutil.copytree(qwen, path)
  (path / 'special_tokens_map.json').write_text(json.dumps({'eos_token': {'content': '<|endoftext|>'}}))
  assert tokenizers.load(path).eos[0] == reference(path).eos_token_id == tokenizers.load(qwen).eos[1]


def test_tokens_beside_a_sentencepiece_model_are_refused(sentencepiece, tmp_path):
  path = edited(sentencepiece, tmp_path / 'm', 'tokenizer_config.json', added_tokens_decoder={
      '512': {'content': '<x>', 'special': True}})
  assert 'has 512 ids, but the files beside it add more' in error_of(path)


def test_training_gives_the_same_model_each_time(tmp_path):
  def model(name):
    tokenizers.train(toy.documents('trial', 0, 50), tmp_path / name, 400)
    return hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
  assert model('a') == model('b')
