"""Encoding, decoding and streams, compared with the `tokenizers` library, transformers and SentencePiece."""

import json
import random

import numpy as np
import pytest
import sentencepiece as sentencepiece_library
import tokenizers as library

from r1jax import tokenizers
from r1jax.data.toy import arithmetic


def reference_tokenizer(path):
  """The tokenizer as the `tokenizers` library loads it."""
  tk = library.Tokenizer.from_file(str(path / 'tokenizer.json'))
  tk.no_truncation()
  return tk


def streamed(tokenizer, ids):
  stream = tokenizer.stream()
  return [stream.push(i) for i in ids] + [stream.end()]


def random_ids(tokenizer, count, size):
  """Half of the ids are single bytes, which rarely form characters; some only pad a model's vocabulary."""
  rng = random.Random(1)
  return [[rng.randrange(rng.choice([259, tokenizer.vocab + 8])) for _ in range(size)] for _ in range(count)]


@pytest.mark.parametrize('special', [False, True])
def test_byte_level_ids_are_those_of_the_library(byte_level, texts, special):
  ours, theirs = tokenizers.load(byte_level), reference_tokenizer(byte_level)
  theirs.encode_special_tokens = not special
  for text in texts:
    assert ours.encode(text, special=special) == theirs.encode(text, add_special_tokens=False).ids, text


def test_byte_level_text_is_that_of_the_library(byte_level):
  ours, theirs = tokenizers.load(byte_level), reference_tokenizer(byte_level)
  for ids in random_ids(ours, 1000, 8):
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


def test_ids_and_text_are_those_of_transformers(directory, texts, reference):
  ours, theirs = tokenizers.load(directory), reference(directory)
  assert ours.vocab == len(theirs) and ours.eos[0] == theirs.eos_token_id and ours.bos == theirs.bos_token_id
  for text in texts + arithmetic.documents('trial', 1, 50) + arithmetic.documents('chain', 1, 50):
    ids = ours.encode(text)
    assert theirs.encode(text, add_special_tokens=False, split_special_tokens=True) == ids, text
    assert theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) == ours.decode(ids), text
    if 'model' not in str(ours.path):
      assert theirs.encode(text, add_special_tokens=False) == ours.encode(text, special=True), text


def test_a_converted_sentencepiece_model_encodes_any_text_equally(sentencepiece, texts):
  ours, theirs = tokenizers.load(sentencepiece), reference_tokenizer(sentencepiece)
  theirs.encode_special_tokens = True
  rng = random.Random(0)
  pieces = list(theirs.get_vocab()) + ['\n', ' ', '汉', '🙂']
  mixed = [''.join(rng.choices(pieces, k=10)).replace('▁', ' ') for _ in range(2000)]
  for text in texts + mixed + arithmetic.documents('trial', 0, 500) + arithmetic.documents('chain', 0, 500):
    ids = ours.encode(text)
    assert theirs.encode(text).ids == ids, text
    assert theirs.decode(ids) == ours.decode(ids) == text.replace('▁', ' ')


def test_a_converted_sentencepiece_model_decodes_utf8_equally(sentencepiece):
  ours, theirs = tokenizers.load(sentencepiece), reference_tokenizer(sentencepiece)
  both = [(ours.decode(ids), theirs.decode(ids)) for ids in random_ids(ours, 4000, 4)]
  valid = [pair for pair in both if '\ufffd' not in pair[0]]
  assert len(valid) > 500 and all(a == b for a, b in valid)


def test_sentencepiece_models_of_another_kind_are_not_converted(tmp_path):
  sentencepiece_library.SentencePieceTrainer.train(
    sentence_iterator=iter(arithmetic.documents('trial', 0, 100)),
    model_prefix=str(tmp_path / 'm'),
    vocab_size=300,
    model_type='unigram',
    hard_vocab_limit=False,
    minloglevel=2,
  )
  with pytest.raises(tokenizers.TokenizerError, match='tokenizers.train'):
    tokenizers.to_tokenizer_json(tmp_path / 'm.model', tmp_path / 'tokenizer.json')
  assert not (tmp_path / 'tokenizer.json').exists()


def test_decoding_restores_the_text(directory, texts):
  ours = tokenizers.load(directory)
  for text in texts:
    back = ours.decode(ours.encode(text))
    if directory.name == 'deepseek':  # no normalisation, and no character that stands for a space
      assert back == text
    assert ours.decode(ours.encode(back)) == back


def test_the_text_of_a_special_token_is_only_text(qwen):
  ours = tokenizers.load(qwen)
  end, think = ours.added['<|im_end|>'], ours.added['<think>']
  assert end not in ours.encode('a<|im_end|>b') and ours.decode(ours.encode('a<|im_end|>b')) == 'a<|im_end|>b'
  assert ours.encode('<|im_end|>', special=True) == [end]
  assert ours.encode('<think>') == [think]  # added, but not special


def test_half_a_surrogate_pair_is_refused(directory):
  ours = tokenizers.load(directory)
  for text in ('a\ud800', '\udc80<think>'):
    with pytest.raises(tokenizers.TokenizerError, match='surrogate pair'):
      ours.encode(text)


def test_special_and_padding_ids_become_no_text(directory):
  ours = tokenizers.load(directory)
  ids = ours.encode('one two')
  padded = np.array([*ids, ours.eos[0], ours.vocab, ours.vocab + 99], np.int32)
  assert ours.decode(padded) == 'one two' == ''.join(streamed(ours, padded))


def test_eos_is_the_union_of_the_files(qwen, deepseek, sentencepiece):
  ours = tokenizers.load(qwen)
  assert ours.eos == (ours.added['<|im_end|>'], ours.added['<|endoftext|>']) and ours.bos is None
  ours = tokenizers.load(deepseek)
  assert ours.eos == (ours.added['<｜end▁of▁sentence｜>'],) and ours.bos == ours.added['<｜begin▁of▁sentence｜>']
  ours = tokenizers.load(sentencepiece)
  assert (ours.eos, ours.bos, ours.vocab) == ((1,), None, 512)


def test_a_stream_is_what_decode_gives(directory, texts):
  ours = tokenizers.load(directory)
  for ids in [ours.encode(text) for text in texts] + random_ids(ours, 1000, 12):
    assert ''.join(streamed(ours, ids)) == ours.decode(ids)


def test_a_stream_returns_only_complete_characters(directory):
  ours = tokenizers.load(directory)
  text = 'a👨‍👩‍👧‍👦é汉🙂 ok'
  pieces = streamed(ours, ours.encode(text))
  assert '\ufffd' not in ''.join(pieces) and ''.join(pieces) == text
  assert len(pieces) > 12 and max(map(len, pieces)) < 8  # it does not keep the text back to the end


@pytest.mark.parametrize('byte', [0x80, 0xF0, 0xFF])
def test_a_stream_of_broken_characters_keeps_going(directory, byte):
  ours = tokenizers.load(directory)
  piece = f'<0x{byte:02X}>' if directory.name == 'ours' else {0x80: 'Ģ', 0xF0: 'ð', 0xFF: 'ÿ'}[byte]
  ids = [reference_tokenizer(directory).token_to_id(piece)] * 200
  parts = streamed(ours, ids)
  assert ''.join(parts) == ours.decode(ids) == '\ufffd' * 200
  assert all(parts[1:-1])  # at most one is kept back


def test_the_begin_token_follows_the_tokenizers_files(qwen, tmp_path):
  """It starts with the begin token according to add_bos_token, or else the post-processor of the tokenizer.json."""
  spec = json.loads((qwen / 'tokenizer.json').read_text())
  config = json.loads((qwen / 'tokenizer_config.json').read_text()) | {'bos_token': '<|im_start|>'}
  first = {'type': 'TemplateProcessing', 'single': [{'SpecialToken': {'id': '<|im_start|>', 'type_id': 0}}]}
  for processor, adds, begins in ((None, None, False), (first, None, True), (None, True, True), (first, False, False)):
    (tmp_path / 'tokenizer.json').write_text(json.dumps(spec | {'post_processor': processor}))
    (tmp_path / 'tokenizer_config.json').write_text(json.dumps(config | {'add_bos_token': adds}))
    tokenizer = tokenizers.load(tmp_path)
    assert tokenizer.encode('a', bos=True) == [tokenizer.bos] * begins + tokenizer.encode('a')


def test_a_response_shows_its_special_tokens_but_not_its_end(directory):
  ours = tokenizers.load(directory)
  hidden = [token for token in ours.special if ours.added[token] not in ours.eos]
  text = 'é 北京 <think> a'
  ids = ours.encode(text)
  assert ours.response([*ids, ours.eos[0]]) == (ours.decode(ids), ()) == (text, ())
  for token in hidden:
    control_id = ours.added[token]
    for position in range(len(ids) + 1):
      decoded, control = ours.response([*ids[:position], control_id, *ids[position:], ours.eos[0]])
      before, after = decoded.split(token)  # a character that it splits is broken on both sides
      assert control == (token,) and (text == before + after or text.startswith(before.rstrip('\ufffd')))
    assert ours.response([control_id, *ids, control_id])[0] == token + text + token
    assert len([*ours.pieces([*ids, control_id])]) == len(ids) + 2
