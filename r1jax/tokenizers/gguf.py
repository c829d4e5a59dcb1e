"""Tokenizers in the metadata of GGUF files, as the files of a Hugging Face directory, and back.

Published GGUF files name their pre-tokenizer instead of containing it (`tokenizer.ggml.pre`). The patterns are those of
the models' tokenizer.json, with which llama.cpp's src/llama-vocab.cpp agrees; but for an ideographic space, which in
'deepseek-llm' is punctuation in the model's file and a space there. 'default' is llama.cpp's own.
"""

import json
import os
from typing import Any

from sentencepiece import sentencepiece_model_pb2

from r1jax.tokenizers.base import TokenizerError
from r1jax.tokenizers.spm import SentencePieceTokenizer

_PROTO: Any = sentencepiece_model_pb2

# Types of tokens; SentencePiece has the same numbers.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

_WORDS = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_GPT2 = {'type': 'ByteLevel', 'add_prefix_space': False, 'trim_offsets': True, 'use_regex': True}
_GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # its pattern
_SINGLE_DIGITS = {'type': 'Digits', 'individual_digits': True}
# Code points of DeepSeek-LLM's pattern for words: letters with upper and lower case, most of them.
_CASED = """
  41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376 377 37B-37D 37F 386 388-38A 38C 38E-3A1
  3A3-3F5 3F7-481 48A-52F 531-556 10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF 1D00-1D2B 1D6B-1D77 1D79-1D9A
  1E00-1F15 1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D 1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE 1FC2-1FC4
  1FC6-1FCC 1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4 1FF6-1FFC 2102 2107 210A-2113 2115 2119-211D 2124 2126 2128
  212A-212D 212F-2134 2139 213C-213F 2145-2149 214E 2183 2184 2C00-2C7B 2C7E-2CE4 2CEB-2CEE 2CF2 2CF3 A640-A66D
  A680-A69B A722-A76F A771-A787 A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17 FF21-FF3A FF41-FF5A 10400-1044F 104B0-104D3
  104D8-104FB 10C80-10CB2 10CC0-10CF2 118A0-118DF 1E900-1E943
"""
_PUNCTUATION = '21-2F 3A-7E FF01-FF0F FF1A-FF5E 2018-201F 3000-3002'  # and the same of its punctuation,
_UNCASED = '4E00-9FA5 800-4E00 AC00-D7FF'  # and of words without spaces between them


def _characters(code_points):
  """The inside of a character class, from code points and ranges of them in hexadecimal."""
  return ''.join('-'.join(chr(int(end, 16)) for end in part.split('-')) for part in code_points.split())


def _split(*patterns, then=()):
  """Pre-tokenizers that isolate what each pattern matches, one after the other."""
  split = {'type': 'Split', 'behavior': 'Isolated', 'invert': False}
  return [*(split | {'pattern': {'Regex': pattern}} for pattern in patterns), *then, _GPT2 | {'use_regex': False}]


# {name: (normalizer, pre-tokenizers, ignore_merges, whether texts begin with BOS unless the file says)}
_LLAMA3 = (None, _split(_WORDS % '{1,3}'), True, True)
_QWEN2 = ('NFC', _split(_WORDS % ''), False, False)
_DEEPSEEK_LLM = _split(
  '[\r\n]',
  rf'\s?[{_characters(_CASED)}]+',
  rf'\s?[{_characters(_PUNCTUATION)}]+',
  r'\s+$',
  f'[{_characters(_UNCASED)}]+',
  then=[_SINGLE_DIGITS],
)
_PRE = {
  'smollm': (None, [_SINGLE_DIGITS, _GPT2], False, False),
  'gpt-2': (None, [_GPT2], False, False),
  'llama-bpe': _LLAMA3,
  'llama3': _LLAMA3,
  'llama-v3': _LLAMA3,
  'qwen2': _QWEN2,
  'deepseek-r1-qwen': _QWEN2,
  'deepseek-llm': (None, _DEEPSEEK_LLM, False, False),
  'default': (None, _split(r'[\p{P}$+<=>^~|]+', _GPT2_WORDS, r'\p{N}+', '[0-9][0-9][0-9]'), False, False),
}


def write_files(file, folder):
  """Writes the tokenizer of a GGUF file into a folder, as tokenizer.json or tokenizer.model and their companions.

  Args:
    file: gguf_files.File.
    folder: an empty folder.

  Raises:
    TokenizerError: its kind or its pre-tokenizer is not supported, or the metadata is incomplete; one line.
  """
  model = _field(file, 'ggml.model', str)
  if model not in ('gpt2', 'llama'):
    raise TokenizerError(f'{file.path}: tokenizer {model[:100]!r} is not supported; known in GGUF: gpt2, llama.')
  tokens, types = _field(file, 'ggml.tokens', list), _field(file, 'ggml.token_type', list)
  if len(tokens) != len(types) or not all(type(t) is str for t in tokens) or not all(type(t) is int for t in types):
    raise TokenizerError(f'{file.path}: {len(tokens)} tokens have {len(types)} types, or are no texts; fetch it again.')
  count = max((i for i, kind in enumerate(types, 1) if kind != UNUSED), default=0)
  tokens, types = tokens[:count], types[:count]  # the rest only pads the model's vocabulary
  ids = {key: _id(file, key, count) for key in ('bos', 'eos', 'eot', 'eom', 'unknown', 'padding')}
  names = {'bos_token': 'bos', 'eos_token': 'eos', 'pad_token': 'padding'}
  config: dict[str, Any] = {name: tokens[i] for name, key in names.items() if (i := ids[key]) is not None}
  config |= {'tokenizer_class': 'PreTrainedTokenizerFast', 'clean_up_tokenization_spaces': False}
  if (template := _field(file, 'chat_template', str, '')) != '':
    config['chat_template'] = template
  if model == 'gpt2':
    spec, adds_bos = _bpe(file, tokens, types)
  else:
    spec, adds_bos = None, True
    with open(os.path.join(folder, 'tokenizer.model'), 'wb') as f:
      f.write(_spm(file, tokens, types, ids).SerializeToString())
  config['add_bos_token'] = _field(file, 'ggml.add_bos_token', bool, adds_bos) and ids['bos'] is not None
  if spec:
    if config['add_bos_token']:
      spec['post_processor'] = _begins_with(config['bos_token'], ids['bos'])
    _write(folder, 'tokenizer.json', spec)
  _write(folder, 'tokenizer_config.json', config)
  ends = [ids[key] for key in ('eos', 'eot', 'eom') if ids[key] is not None]
  begin = {} if ids['bos'] is None else {'bos_token_id': ids['bos']}
  _write(folder, 'generation_config.json', begin | ({'eos_token_id': list(dict.fromkeys(ends))} if ends else {}))


def _write(folder, name, value):
  with open(os.path.join(folder, name), 'w', encoding='utf-8') as f:
    json.dump(value, f, ensure_ascii=False)


def _field(file, key, kind, *default):
  """The value of a field, of type `kind`; the default if there is none."""
  value = file.fields.get(f'tokenizer.{key}', *default)
  if type(value) is not kind:
    what = 'no' if value is None else f'a {type(value).__name__} as'
    raise TokenizerError(f'{file.path}: has {what} tokenizer.{key}; use a file with the tokenizer in it.')
  return value


def _id(file, key, count):
  """The id of a special token, or None."""
  value = file.fields.get(f'tokenizer.ggml.{key}_token_id')
  if value is not None and (type(value) is not int or not 0 <= value < count):
    raise TokenizerError(f'{file.path}: {key}_token_id is {value!r:.20}, not one of {count} ids; fetch it again.')
  return value


def _bpe(file, tokens, types):
  """(contents of a tokenizer.json, whether texts begin with BOS by default)."""
  pre = file.fields.get('tokenizer.ggml.pre')
  if not isinstance(pre, str) or pre not in _PRE:
    # llama.cpp takes its default for a file without a name, which is older than the names; no model was trained so.
    what = 'no tokenizer.ggml.pre is named' if pre is None else f'pre-tokenizer {pre!r:.100} is not supported'
    raise TokenizerError(f'{file.path}: {what}; known: {", ".join(_PRE)}. Use the Hugging Face directory of the model.')
  merges = _field(file, 'ggml.merges', list)
  if len(set(tokens)) < len(tokens) or not all(type(m) is str and m.count(' ') == 1 for m in merges):
    raise TokenizerError(f'{file.path}: has the same token twice, or a merge that is no pair; fetch it again.')
  normalizer, pre_tokenizers, ignore_merges, adds_bos = _PRE[pre]
  # The library gives an added token its id from the vocabulary.
  vocab = {token: i for i, (token, kind) in enumerate(zip(tokens, types)) if kind != UNUSED}
  flags = dict.fromkeys(('single_word', 'lstrip', 'rstrip', 'normalized'), False)
  added = [
    {'id': i, 'content': token, 'special': kind == CONTROL, **flags}
    for i, (token, kind) in enumerate(zip(tokens, types))
    if kind in (CONTROL, USER_DEFINED)
  ]
  return {
    'version': '1.0',
    'truncation': None,
    'padding': None,
    'added_tokens': added,
    'normalizer': normalizer and {'type': normalizer},
    'pre_tokenizer': {'type': 'Sequence', 'pretokenizers': pre_tokenizers},
    'post_processor': None,
    'decoder': _GPT2,
    'model': {'type': 'BPE', 'vocab': vocab, 'merges': [m.split(' ') for m in merges], 'ignore_merges': ignore_merges},
  }, adds_bos


def _begins_with(bos, i):
  """The post-processor of a tokenizer.json that puts a token before each text; for transformers."""
  begin, text = {'SpecialToken': {'id': bos, 'type_id': 0}}, {'Sequence': {'id': 'A', 'type_id': 0}}
  pair = [begin, {'Sequence': {'id': 'B', 'type_id': 1}}]
  tokens = {bos: {'id': bos, 'ids': [i], 'tokens': [bos]}}
  return {'type': 'TemplateProcessing', 'single': [begin, text], 'pair': [begin, text, *pair], 'special_tokens': tokens}


def _spm(file, tokens, types, ids):
  """The SentencePiece model of a GGUF file."""
  scores = _field(file, 'ggml.scores', list)
  if len(scores) < len(tokens) or not all(type(x) is float for x in scores):
    raise TokenizerError(f'{file.path}: {len(tokens)} tokens have {len(scores)} scores; fetch it again.')
  model = _PROTO.ModelProto()
  for piece, score, kind in zip(tokens, scores, types):
    if kind not in range(NORMAL, BYTE + 1):
      raise TokenizerError(f'{file.path}: token {piece[:100]!r} has type {kind}, which is unknown; fetch it again.')
    model.pieces.add(piece=piece, score=score, type=kind)
  trainer, normalizer = model.trainer_spec, model.normalizer_spec
  trainer.model_type, trainer.vocab_size = trainer.BPE, len(tokens)
  trainer.byte_fallback = BYTE in types
  unknown = types.index(UNKNOWN) if UNKNOWN in types else -1
  trainer.unk_id = unknown if ids['unknown'] is None else ids['unknown']
  for key, name in (('bos', 'bos'), ('eos', 'eos'), ('padding', 'pad')):
    setattr(trainer, f'{name}_id', -1 if ids[key] is None else ids[key])
    if ids[key] is not None:
      setattr(trainer, f'{name}_piece', tokens[ids[key]])
  if trainer.unk_id >= 0:
    trainer.unk_piece = tokens[trainer.unk_id]
  normalizer.name = 'identity'
  normalizer.add_dummy_prefix = _field(file, 'ggml.add_space_prefix', bool, True)
  normalizer.remove_extra_whitespaces = _field(file, 'ggml.remove_extra_whitespaces', bool, False)
  return model


def fields(tokenizer, size):
  """The metadata of a GGUF file for a tokenizer.

  Args:
    tokenizer: a Tokenizer.
    size: how many ids the model has; the rest get unused tokens.

  Returns:
    {key: value}.

  Raises:
    TokenizerError: GGUF cannot express the tokenizer; one line.
  """
  out = _fields_of_spm(tokenizer) if isinstance(tokenizer, SentencePieceTokenizer) else _fields_of_bpe(tokenizer)
  tokens, types = out['tokenizer.ggml.tokens'], out['tokenizer.ggml.token_type']
  padding = size - len(tokens)
  tokens += [f'[PAD{i}]' for i in range(len(tokens), size)]
  types += [UNUSED] * padding
  if 'tokenizer.ggml.scores' in out:
    out['tokenizer.ggml.scores'] += [-1e4] * padding
  ends = dict(zip(('eos', 'eot', 'eom'), tokenizer.eos))
  if len(ends) < len(tokenizer.eos):
    raise TokenizerError(
      f'{tokenizer.path}: has {len(tokenizer.eos)} end tokens, but GGUF names 3; remove some of eos_token_id in '
      'generation_config.json.'
    )
  out |= {f'tokenizer.ggml.{name}_token_id': i for name, i in ends.items()}
  if tokenizer.bos is not None:
    out['tokenizer.ggml.bos_token_id'] = tokenizer.bos
  out['tokenizer.ggml.add_bos_token'] = tokenizer.encode('', bos=True) != []
  if tokenizer.template:
    out['tokenizer.chat_template'] = tokenizer.template
  return out


def _fields_of_spm(tokenizer):
  model = _PROTO.ModelProto.FromString(tokenizer.serialized())
  normalizer = model.normalizer_spec
  if (
    model.trainer_spec.model_type != model.trainer_spec.BPE
    or normalizer.precompiled_charsmap
    or not normalizer.escape_whitespaces
    or model.trainer_spec.treat_whitespace_as_suffix
  ):
    raise TokenizerError(
      f'{tokenizer.path}: GGUF has only SentencePiece models of type BPE that do not change characters; export to a '
      'Hugging Face directory instead.'
    )
  # llama.cpp puts a space behind a user-defined token. A character that is in no other piece needs no such token.
  defined = {p.piece for p in model.pieces if p.type == USER_DEFINED and len(p.piece) == 1}
  plain = defined - set(''.join(p.piece for p in model.pieces if len(p.piece) > 1))
  out = {
    'tokenizer.ggml.model': 'llama',
    'tokenizer.ggml.pre': 'default',
    'tokenizer.ggml.tokens': [p.piece for p in model.pieces],
    'tokenizer.ggml.scores': [p.score for p in model.pieces],
    'tokenizer.ggml.token_type': [NORMAL if p.piece in plain else p.type for p in model.pieces],
    'tokenizer.ggml.add_space_prefix': normalizer.add_dummy_prefix,
    'tokenizer.ggml.remove_extra_whitespaces': normalizer.remove_extra_whitespaces,
  }
  for name, key in (('unk', 'unknown'), ('pad', 'padding')):
    if (i := getattr(model.trainer_spec, f'{name}_id')) >= 0:
      out[f'tokenizer.ggml.{key}_token_id'] = i
  return out


def _fields_of_bpe(tokenizer):
  spec = tokenizer.spec()
  normalizer, pre_tokenizer = spec['normalizer'] or {'normalizers': []}, spec['pre_tokenizer'] or {'pretokenizers': []}
  normalizers = [part['type'] for part in normalizer.get('normalizers', [normalizer])]
  splits = pre_tokenizer.get('pretokenizers', [pre_tokenizer])
  splits = [part | {'trim_offsets': True} if 'trim_offsets' in part else part for part in splits]
  found = normalizers, splits, spec['model']['ignore_merges']
  known = {pre: ([n] if n else [], parts, ignore_merges) for pre, (n, parts, ignore_merges, _) in _PRE.items()}
  pre = next((pre for pre, parts in known.items() if parts == found), None)
  if pre is None:
    raise TokenizerError(
      f'{tokenizer.path}: GGUF has no name for its normalizer, pre-tokenizer and ignore_merges, only for those of '
      f'{", ".join(_PRE)}; export to a Hugging Face directory instead.'
    )
  texts = {i: token for token, i in (spec['model']['vocab'] | tokenizer.added).items()}

  def kind(i):
    if i not in texts:
      return UNUSED
    return CONTROL if texts[i] in tokenizer.special else USER_DEFINED if texts[i] in tokenizer.added else NORMAL

  return {
    'tokenizer.ggml.model': 'gpt2',
    'tokenizer.ggml.pre': pre,
    'tokenizer.ggml.tokens': [texts.get(i, f'[PAD{i}]') for i in range(tokenizer.vocab)],
    'tokenizer.ggml.token_type': [kind(i) for i in range(tokenizer.vocab)],
    'tokenizer.ggml.merges': [' '.join(pair) for pair in spec['model']['merges']],
  }
