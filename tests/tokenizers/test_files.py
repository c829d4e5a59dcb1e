"""Which files are read, and errors about files that are missing or broken."""

import hashlib
import json
import random
import shutil

import pytest

from r1jax import tokenizers
from r1jax.data.toy import arithmetic


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


def test_files_are_those_that_exist(qwen, sentencepiece, tmp_path):
  names = lambda path: [name.rsplit('/', 1)[1] for name in tokenizers.files(path)]
  assert names(qwen) == ['tokenizer.json', 'tokenizer_config.json', 'generation_config.json']
  assert names(sentencepiece) == ['tokenizer.json', 'tokenizer.model', 'tokenizer_config.json']
  (tmp_path / 'vocab.json').write_text('{}')
  with pytest.raises(tokenizers.TokenizerError, match='no tokenizer there'):
    tokenizers.files(tmp_path)


def test_a_missing_tokenizer_is_an_error(tmp_path):
  for path in (tmp_path, tmp_path / 'nothing', tmp_path / 'tokenizer.model'):
    assert 'no tokenizer there' in error_of(path)


@pytest.mark.parametrize(
  ('name', 'content', 'words'),
  [
    ('tokenizer.json', '{"a": ', 'cannot be read as JSON'),
    ('tokenizer.json', '[]', 'a list, not an object'),
    ('tokenizer.json', '{}', 'not byte-level'),
    ('tokenizer.json', '\udcff', 'cannot be read as JSON'),
    ('tokenizer.json', '{"decoder": {"type": "ByteLevel"}, "model": 3}', 'not a tokenizer'),
    ('tokenizer_config.json', '{', 'cannot be read as JSON'),
    ('generation_config.json', '3', 'a int, not an object'),
    ('tokenizer_config.json', '{"added_tokens_decoder": {"x": {}}}', 'added tokens'),
    ('tokenizer_config.json', '{"added_tokens_decoder": [1]}', 'added tokens'),
    ('generation_config.json', '{"eos_token_id": "</s>"}', "generation_config.json is '</s>', not an id"),
    ('config.json', '{"eos_token_id": [-1]}', 'not an id'),
  ],
)
def test_a_broken_file_is_named(qwen, tmp_path, name, content, words):
  path = tmp_path / 'm'
  shutil.copytree(qwen, path)
  (path / name).write_bytes(content.encode(errors='surrogateescape'))
  assert words in error_of(path)


def test_a_broken_sentencepiece_model_is_named(tmp_path):
  (tmp_path / 'tokenizer.model').write_bytes(b'not one')
  assert 'not a SentencePiece model' in error_of(tmp_path)


def test_a_tokenizer_without_an_end_token_is_refused(qwen, tmp_path):
  path = edited(qwen, tmp_path / 'm', 'tokenizer_config.json', eos_token=None)
  assert len(tokenizers.load(path).eos) == 2  # generation_config.json still names them
  (path / 'generation_config.json').unlink()
  assert 'eos_token_id' in error_of(path)


def test_an_added_token_that_strips_spaces_is_refused(qwen, tmp_path):
  added = json.loads((qwen / 'tokenizer.json').read_text())['added_tokens']
  path = edited(qwen, tmp_path / 'm', added_tokens=[added[0] | {'lstrip': True}, *added[1:]])
  assert "'<|endoftext|>' strips spaces" in error_of(path)


def named_special(qwen):
  return {'pad_token': '<think>'}


def listed_special(qwen):
  more = {qwen.added['</think>']: '</think>', qwen.vocab: '<|tool|>'}
  return {
    'added_tokens_decoder': {
      str(i): {'content': token, 'special': True, 'normalized': False} for i, token in more.items()
    }
  }


@pytest.mark.parametrize('changes', [named_special, listed_special])
def test_the_configuration_makes_tokens_special(qwen, tmp_path, reference, changes):
  path = edited(qwen, tmp_path / 'm', 'tokenizer_config.json', **changes(tokenizers.load(qwen)))
  ours, theirs, text = tokenizers.load(path), reference(path), '<think>a</think><|tool|>'
  assert ours.vocab == len(theirs) == tokenizers.load(qwen).vocab + (changes is listed_special)
  for special in (False, True):
    ids = ours.encode(text, special=special)
    assert ids == theirs.encode(text, add_special_tokens=False, split_special_tokens=not special)
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


def test_special_tokens_map_is_used_if_the_configuration_has_no_token(qwen, tmp_path, reference):
  path = tmp_path / 'm'
  shutil.copytree(qwen, path)
  (path / 'special_tokens_map.json').write_text(json.dumps({'eos_token': {'content': '<|endoftext|>'}}))
  assert tokenizers.load(path).eos[0] == reference(path).eos_token_id == tokenizers.load(qwen).eos[1]


def test_tokens_beside_a_sentencepiece_model_are_refused(sentencepiece, tmp_path):
  path = edited(
    sentencepiece,
    tmp_path / 'm',
    'tokenizer_config.json',
    added_tokens_decoder={'512': {'content': '<x>', 'special': True}},
  )
  assert 'has 512 ids' in error_of(path)


def test_training_gives_the_same_model_each_time(tmp_path):
  def model(name):
    tokenizers.train(arithmetic.documents('trial', 0, 50), tmp_path / name, 400)
    return hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()

  assert model('a') == model('b')


BYTE_LEVEL = {'type': 'ByteLevel', 'add_prefix_space': False, 'trim_offsets': True, 'use_regex': True}
GROWS = {'type': 'Replace', 'pattern': {'String': 'a'}, 'content': 'a' * 100}
SPLIT = {'type': 'Split', 'behavior': 'Isolated', 'invert': False}


def model(**changes):
  return lambda spec: spec | {'model': spec['model'] | changes}


def having(**changes):
  return lambda spec: spec | changes


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    (having(normalizer={'type': 'Precompiled', 'precompiled_charsmap': '/////w=='}), "'Precompiled'"),
    (
      having(normalizer={'type': 'Sequence', 'normalizers': [{'type': 'NFC'}, {'type': 'Precompiled'}]}),
      "'Precompiled'",
    ),
    (having(normalizer={'type': 'Sequence', 'normalizers': [GROWS] * 6}), 'which makes texts longer'),
    (having(normalizer=GROWS | {'pattern': {'Regex': 'a'}, 'content': 'a'}), 'which makes texts longer'),
    (having(normalizer=GROWS | {'pattern': {'String': ''}, 'content': ''}), 'which makes texts longer'),
    (having(normalizer={'type': 'Prepend', 'prepend': ''}), "'Prepend'"),
    (having(normalizer=3), 'normalizer 3'),
    (having(normalizer={'type': 'Sequence', 'normalizers': 3}), "'Sequence'"),
    (having(normalizer={}), 'normalizer {}'),
    (having(pre_tokenizer={'type': 'FixedLength', 'length': 0}), "'FixedLength'"),
    (having(pre_tokenizer={'type': 'Sequence', 'pretokenizers': [BYTE_LEVEL, {'type': 'Metaspace'}]}), "'Metaspace'"),
    (having(pre_tokenizer=SPLIT | {'pattern': {'String': ''}}), 'with an empty pattern'),
    (having(pre_tokenizer=SPLIT | {'pattern': {'Regex': '('}}), 'not a tokenizer'),
    (model(type='WordLevel', unk_token='[UNK]'), 'no BPE model'),
    (model(type='WordPiece'), 'no BPE model'),
    (model(type='Unigram', vocab=[['a', -1.0]]), 'no BPE model'),
    (model(vocab=[]), 'no BPE model'),
    (having(model={'type': 'BPE'}), 'no BPE model'),
    (model(vocab={}, merges=[]), 'has no tokens'),
    (model(continuing_subword_prefix='##'), "continuing_subword_prefix = '##'"),
    (model(end_of_word_suffix='</w>'), "end_of_word_suffix = '</w>'"),
    (model(dropout=0.5), 'dropout = 0.5'),
    (model(vocab={'a': -1}, merges=[]), 'not a tokenizer'),
    (model(vocab={'a': 10**12}, merges=[]), 'not a tokenizer'),
    (model(vocab={'a': 1.5}, merges=[]), 'not a tokenizer'),
    (model(vocab={'a': 1, 'b': 1}, merges=[]), 'the same id for two'),
    (model(merges=[['nothing', 'there']]), 'not a tokenizer'),
    (model(merges=3), 'not a tokenizer'),
  ],
)
def test_unsupported_settings_are_refused(qwen, tmp_path, change, words):
  spec = json.loads((qwen / 'tokenizer.json').read_text())
  spec = change(spec)
  if words == 'has no tokens':
    spec['added_tokens'] = []
  assert words in error_of(edited(qwen, tmp_path / 'm', **spec))


@pytest.mark.parametrize(
  'change',
  [
    model(dropout=0.0, continuing_subword_prefix='', end_of_word_suffix=''),
    model(dropout=None),
    having(normalizer={'type': 'Sequence', 'normalizers': []}),
    having(normalizer=None),
    having(
      normalizer={
        'type': 'Sequence',
        'normalizers': [{'type': 'NFC'}, {'type': 'Replace', 'pattern': {'String': '\u2003'}, 'content': ' '}],
      }
    ),
    having(
      pre_tokenizer={
        'type': 'Sequence',
        'pretokenizers': [{'type': 'Digits', 'individual_digits': True}, BYTE_LEVEL | {'use_regex': False}],
      }
    ),
  ],
)
def test_supported_settings_are_read(qwen, tmp_path, change):
  ours = tokenizers.load(edited(qwen, tmp_path / 'm', **change(json.loads((qwen / 'tokenizer.json').read_text()))))
  assert ours.decode(ours.encode('some text 12 x')) == 'some text 12 x'


@pytest.mark.parametrize(
  'token',
  [
    {'content': ''},
    {'content': 3},
    {'content': None},
    {'content': '\ud800'},
    {'id': -1},
    {'id': 10**12},
    {'id': '7'},
    {'id': 1.5},
    {'id': True},
    {'id': None},
  ],
)
def test_invalid_added_tokens_are_refused(qwen, tmp_path, token):
  added = json.loads((qwen / 'tokenizer.json').read_text())['added_tokens']
  assert 'added tokens' in error_of(edited(qwen, tmp_path / 'm', added_tokens=[*added, added[0] | token]))
  if 'id' not in token:
    listed = {'900': {'content': token['content'], 'special': True}}
    path = edited(qwen, tmp_path / 'n', 'tokenizer_config.json', added_tokens_decoder=listed)
    assert 'added tokens' in error_of(path)


def test_a_panic_of_the_library_is_an_error_of_one_line(qwen, tmp_path, capfd):
  """Its regular expressions have a limit on their work, and panic above it, which is not an Exception."""
  path = edited(qwen, tmp_path / 'm', pre_tokenizer=SPLIT | {'pattern': {'Regex': '(a|aa)+$'}})
  ours = tokenizers.load(path)
  assert ours.encode('b')
  with pytest.raises(tokenizers.TokenizerError, match='retry-limit') as error:
    ours.encode('a' * 60 + ' c')
  assert '\n' not in str(error.value) and str(path) in str(error.value)


def test_damaged_sentencepiece_models_load_or_are_an_error_of_one_line(sentencepiece, tmp_path):
  intact, rng, loaded = (sentencepiece / 'tokenizer.model').read_bytes(), random.Random(0), 0
  for _ in range(150):
    data = bytearray(intact)
    for _ in range(rng.choice([1, 3, 30])):
      data[rng.randrange(len(data))] = rng.choice([0, 255, rng.randrange(256)])
    (tmp_path / 'tokenizer.model').write_bytes(data[: rng.randrange(len(data))] if rng.random() < 0.2 else data)
    try:
      ours = tokenizers.load(tmp_path)
    except tokenizers.TokenizerError as error:
      assert '\n' not in str(error) and str(tmp_path) in str(error)
      continue
    loaded += 1
    stream = ours.stream()
    ''.join([*map(stream.push, ours.encode('1 + 2 汉 a')), stream.end(), ours.decode(range(ours.vocab))])
  assert loaded > 5
