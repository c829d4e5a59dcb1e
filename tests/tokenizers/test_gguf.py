"""Tokenizers in GGUF files encode as the files they were made from."""

import json
import os
import shutil

import gguf as library
import pytest

from r1jax import config, tokenizers
from r1jax.data import sft
from r1jax.gguf_files import read
from r1jax.tokenizers import gguf

SPLIT_WORDS = {'type': 'ByteLevel', 'add_prefix_space': False, 'trim_offsets': True, 'use_regex': True}
# What each name stands for, in the tokenizer.json of its models: (normalizer, pre-tokenizers, ignore_merges).
PRE = {
  'qwen2': None,  # as the fixture
  'smollm': (None, [{'type': 'Digits', 'individual_digits': True}, SPLIT_WORDS], False),
  'gpt-2': (None, [SPLIT_WORDS], False),
  'llama-bpe': (None, None, True),
  # How these two split is in test_gguf_splits.py.
  'deepseek-llm': (None, gguf._PRE['deepseek-llm'][1], False),
  'default': (None, gguf._PRE['default'][1], False),
}


@pytest.fixture(scope='session')
def sources(qwen, tmp_path_factory):
  """{name of a pre-tokenizer: directory with such a tokenizer}."""
  out = {'qwen2': qwen}
  for name, changes in PRE.items():
    if changes:
      normalizer, pre_tokenizers, ignore_merges = changes
      path = out[name] = tmp_path_factory.mktemp('pre') / name
      shutil.copytree(qwen, path)
      spec = json.loads((path / 'tokenizer.json').read_text())
      if pre_tokenizers is None:  # Llama 3: as Qwen, with up to three digits
        pre_tokenizers = spec['pre_tokenizer']['pretokenizers']
        pre_tokenizers[0]['pattern']['Regex'] = pre_tokenizers[0]['pattern']['Regex'].replace(r'\p{N}|', r'\p{N}{1,3}|')
      spec |= {'normalizer': normalizer, 'pre_tokenizer': {'type': 'Sequence', 'pretokenizers': pre_tokenizers}}
      spec['model']['ignore_merges'] = ignore_merges
      (path / 'tokenizer.json').write_text(json.dumps(spec))
      if name == 'llama-bpe':
        config = json.loads((path / 'tokenizer_config.json').read_text())
        (path / 'tokenizer_config.json').write_text(
          json.dumps(config | {'bos_token': '<|im_start|>', 'add_bos_token': True})
        )
  return out


def fields_of(path, pre, size=None):
  """{key: value} for a byte-level tokenizer's directory, as llama.cpp's converter writes them."""
  spec = json.loads((path / 'tokenizer.json').read_text())
  added = {t['id']: t for t in spec['added_tokens']}
  texts = {i: t for t, i in spec['model']['vocab'].items()} | {i: t['content'] for i, t in added.items()}
  kind = lambda i: 5 if i not in texts else 1 if i not in added else 3 if added[i]['special'] else 4
  size = size or len(texts)
  ends = json.loads((path / 'generation_config.json').read_text())['eos_token_id']
  config = json.loads((path / 'tokenizer_config.json').read_text())
  out = {
    'ggml.model': 'gpt2',
    'ggml.pre': pre,
    'ggml.tokens': [texts.get(i, f'[PAD{i}]') for i in range(size)],
    'ggml.token_type': [kind(i) for i in range(size)],
    'ggml.merges': [' '.join(pair) for pair in spec['model']['merges']],
    'ggml.eos_token_id': ends[0],
    'ggml.eot_token_id': ends[1],
    'ggml.add_bos_token': config['add_bos_token'],
    'chat_template': config['chat_template'][1]['template'],
  }
  if config['bos_token']:
    out['ggml.bos_token_id'] = next(i for i, t in texts.items() if t == config['bos_token'])
  return {f'tokenizer.{key}': value for key, value in out.items()}


def fields_of_sentencepiece(path):
  """The same for a SentencePiece model."""
  import sentencepiece

  sp = sentencepiece.SentencePieceProcessor(model_file=str(path / 'tokenizer.model'))
  ids = range(sp.vocab_size())
  kind = lambda i: 6 if sp.is_byte(i) else 3 if sp.is_control(i) else 2 if sp.is_unknown(i) else 4 if i == 3 else 1
  assert sp.id_to_piece(3) == '\n'  # user-defined
  return {
    'tokenizer.ggml.model': 'llama',
    'tokenizer.ggml.tokens': [sp.id_to_piece(i) for i in ids],
    'tokenizer.ggml.scores': [sp.get_score(i) for i in ids],
    'tokenizer.ggml.token_type': [kind(i) for i in ids],
    'tokenizer.ggml.eos_token_id': sp.eos_id(),
    'tokenizer.ggml.unknown_token_id': sp.unk_id(),
    'tokenizer.ggml.padding_token_id': sp.pad_id(),
  }


def write(path, fields):
  """Writes a GGUF file with this metadata and no tensors."""
  writer = library.GGUFWriter(path, 'llama')
  types = {bool: 'BOOL', int: 'UINT32', str: 'STRING', list: 'ARRAY'}
  for key, value in fields.items():
    writer.add_key_value(key, value, library.GGUFValueType[types[type(value)]])
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_ti_data_to_file()
  writer.close()
  return path


def same(ours, source, texts):
  """Whether two tokenizers agree on all texts, in everything that runs read of them."""
  assert (ours.eos, ours.bos, ours.vocab) == (source.eos, source.bos, source.vocab)
  assert (ours.added, ours.special, ours.template) == (source.added, source.special, source.template)
  for text in texts:
    for options in ({}, {'special': True}, {'bos': True}):
      ids = source.encode(text, **options)
      assert ours.encode(text, **options) == ids, repr(text)
    assert ours.decode(ids) == source.decode(ids)
    assert ours.response(ids) == source.response(ids)
  if source.chats:
    messages = [{'role': 'user', 'content': 'a <|im_end|> 12'}, {'role': 'assistant', 'content': '<think>b</think>'}]
    assert ours.chat(messages) == source.chat(messages)


@pytest.mark.parametrize('pre', PRE)
def test_byte_level_tokenizers_are_rebuilt(sources, tmp_path, texts, pre):
  source = tokenizers.load(sources[pre])
  path = write(tmp_path / 'm.gguf', fields_of(sources[pre], pre))
  ours = tokenizers.load(path)
  same(ours, source, texts)
  assert ours.path == str(path)
  with tokenizers.as_folder(path) as folder:
    shutil.copytree(folder, tmp_path / 'hf')
  same(tokenizers.load(tmp_path / 'hf'), source, texts[:50])


def test_names_with_the_same_pattern_are_one(sources, tmp_path, texts):
  for name, of in (('deepseek-r1-qwen', 'qwen2'), ('llama3', 'llama-bpe'), ('llama-v3', 'llama-bpe')):
    path = write(tmp_path / f'{name}.gguf', fields_of(sources[of], name))
    same(tokenizers.load(path), tokenizers.load(sources[of]), texts[:40])


def test_sentencepiece_models_are_rebuilt(sentencepiece, tmp_path, texts):
  source = tokenizers.load(sentencepiece)
  path = write(tmp_path / 'm.gguf', fields_of_sentencepiece(sentencepiece))
  same(tokenizers.load(path), source, texts)
  with tokenizers.as_folder(path) as folder:
    assert {'tokenizer.json', 'tokenizer.model'} <= {os.path.basename(file) for file in tokenizers.files(folder)}
    same(tokenizers.load(folder), source, texts[:50])
  assert not os.path.exists(folder)


def test_sentencepiece_without_a_dummy_space(sentencepiece, tmp_path):
  fields = fields_of_sentencepiece(sentencepiece) | {'tokenizer.ggml.add_space_prefix': False}
  with_space, without = tokenizers.load(sentencepiece), tokenizers.load(write(tmp_path / 'm.gguf', fields))
  assert without.encode(' so') == with_space.encode('so') != without.encode('so')


@pytest.mark.parametrize('pre', [*PRE, None])
def test_a_tokenizer_goes_through_gguf_and_back(sources, sentencepiece, tmp_path, texts, pre):
  """The metadata are those of llama.cpp's converter, padded to the model's vocabulary."""
  source = tokenizers.load(sources[pre] if pre else sentencepiece)
  fields = gguf.fields(source, source.vocab + 3)
  want = fields_of(sources[pre], pre, source.vocab + 3) if pre else fields_of_sentencepiece(sentencepiece)
  if pre:
    assert fields == want
  else:
    want['tokenizer.ggml.token_type'][3] = 1  # the newline: llama.cpp would put a space behind a user-defined one
    assert {key: fields[key][:-3] if type(value) is list else fields[key] for key, value in want.items()} == want
    assert fields['tokenizer.ggml.token_type'][-3:] == [5, 5, 5]
  path = write(tmp_path / 'm.gguf', fields)
  assert read(path, ValueError).fields['tokenizer.ggml.tokens'][-1] == f'[PAD{source.vocab + 2}]'
  same(tokenizers.load(path), source, texts[:60])


def test_transformers_reads_the_files(sources, sentencepiece, tmp_path, texts, reference):
  for name, fields in {
    'llama-bpe': fields_of(sources['llama-bpe'], 'llama-bpe'),
    'spm': fields_of_sentencepiece(sentencepiece),
  }.items():
    path = write(tmp_path / f'{name}.gguf', fields)
    ours = tokenizers.load(path)
    with tokenizers.as_folder(path) as folder:
      theirs = reference(folder)
    for text in texts[:80]:
      assert ours.encode(text, special=True, bos=True) == theirs.encode(text), repr(text)
    assert theirs.eos_token_id == ours.eos[0]


def test_the_texts_of_sft_are_encoded_anew_for_another_tokenizer(sources, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  cfg, digests = config.SFTData(source='jsonl', max_length=64), []
  for name, pre in (('a.gguf', 'qwen2'), ('b.gguf', 'qwen2'), ('c.gguf', 'smollm')):
    write(name, fields_of(sources['qwen2'], pre))
    digests.append(sft._digest_inputs(cfg, [], tokenizers.load(name), set()))
  assert digests[0] == digests[1] != digests[2]


def error_of(path):
  with pytest.raises(tokenizers.TokenizerError) as error:
    tokenizers.load(path)
  assert '\n' not in str(error.value) and str(error.value).startswith(str(path))
  return str(error.value)


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'ggml.model': 't5'}, "tokenizer 't5' is not supported"),
    ({'ggml.model': 'bert\n'}, "'bert\\n'"),
    ({'ggml.model': None}, 'no tokenizer.ggml.model'),
    ({'ggml.pre': 'deepseek-v9'}, "pre-tokenizer 'deepseek-v9'"),
    ({'ggml.pre': None}, 'no tokenizer.ggml.pre'),
    ({'ggml.pre': 'tekken'}, "pre-tokenizer 'tekken'"),
    ({'ggml.tokens': None}, 'no tokenizer.ggml.tokens'),
    ({'ggml.tokens': 'abc'}, 'a str as tokenizer.ggml.tokens'),
    ({'ggml.tokens': ['a', 'a'], 'ggml.token_type': [1, 1]}, 'twice'),
    ({'ggml.tokens': ['a', 'b'], 'ggml.token_type': [1]}, '2 tokens have 1 types'),
    ({'ggml.tokens': [1, 2], 'ggml.token_type': [1, 1]}, 'no texts'),
    ({'ggml.merges': None}, 'no tokenizer.ggml.merges'),
    ({'ggml.merges': ['ab']}, 'no pair'),
    ({'ggml.merges': ['zq zq']}, 'not a tokenizer'),
    ({'ggml.eos_token_id': 10**6}, 'eos_token_id is 1000000'),
    ({'ggml.eos_token_id': None, 'ggml.eot_token_id': None}, 'no end token'),
    ({'ggml.add_bos_token': 'yes'}, 'a str as tokenizer.ggml.add_bos_token'),
    ({'chat_template': 7}, 'a int as tokenizer.chat_template'),
  ],
)
def test_what_is_not_supported_or_missing_is_named(qwen, tmp_path, changes, words):
  fields = fields_of(qwen, 'qwen2') | {'tokenizer.ggml.eos_token_id': 1, 'tokenizer.ggml.eot_token_id': 0}
  fields |= {f'tokenizer.{key}': value for key, value in changes.items()}
  path = write(tmp_path / 'm.gguf', {key: value for key, value in fields.items() if value is not None})
  assert words in error_of(path)


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'ggml.scores': [0.5]}, '512 tokens have 1 scores'),
    ({'ggml.scores': None}, 'no tokenizer.ggml.scores'),
    ({'ggml.token_type': [9] * 512}, 'has type 9'),
    ({'ggml.token_type': [1] * 512}, 'not a SentencePiece model'),
  ],
)
def test_damaged_sentencepiece_metadata_are_named(sentencepiece, tmp_path, changes, words):
  fields = fields_of_sentencepiece(sentencepiece) | {f'tokenizer.{key}': value for key, value in changes.items()}
  path = write(tmp_path / 'm.gguf', {key: value for key, value in fields.items() if value is not None})
  assert words in error_of(path)


def test_tokenizers_that_gguf_cannot_express_are_refused(deepseek, sentencepiece, tmp_path):
  with pytest.raises(tokenizers.TokenizerError, match='GGUF has no name for its normalizer'):
    gguf.fields(tokenizers.load(deepseek), 2000)  # Llama 3's pattern, but without ignore_merges
  shutil.copytree(sentencepiece, tmp_path / 'm')
  (tmp_path / 'm' / 'generation_config.json').write_text(json.dumps({'eos_token_id': [1, 5, 6, 7]}))
  with pytest.raises(tokenizers.TokenizerError, match='4 end tokens, but GGUF names 3'):
    gguf.fields(tokenizers.load(tmp_path / 'm'), 512)


def test_sentencepiece_models_of_other_kinds_are_refused(tmp_path):
  import sentencepiece

  for name, options in {'unigram': {}, 'nfkc': {'model_type': 'bpe', 'normalization_rule_name': 'nfkc'}}.items():
    prefix = tmp_path / name
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(['a few words of text ' * 9, 'and more of them']),
      model_prefix=str(prefix),
      vocab_size=30,
      hard_vocab_limit=False,
      minloglevel=2,
      **options,
    )
    with pytest.raises(tokenizers.TokenizerError, match='type BPE'):
      gguf.fields(tokenizers.load(f'{prefix}.model'), 100)
