"""What all tokenizers do alike: special tokens, chats, streams, and what lies beside the tokenizer's file."""

import codecs
import json
import os
import re

from r1jax import modelfiles
from r1jax.tokenizers import chat


class TokenizerError(ValueError):
  """A tokenizer that cannot be used, or not in this way; the message names its file."""


class Tokenizer:
  """Encodes and decodes text. A subclass gives `_encode` (text without added tokens to ids), `decode` and `stream`.

  Attributes:
    vocab: number of ids: the highest, plus one.
    eos: tuple of the ids that end a text, the usual one first.
    bos: the id that begins a text, or None.
    added: {text: id} of the tokens that a text is searched for before anything else.
    special: those of them that are control: text becomes one only where asked to, and none becomes text.
  """

  def __init__(self, path, vocab, added, eos, template, begins=lambda bos: True):
    """What lies beside `path` has the last word on added tokens.

    Args:
      path: the tokenizer's file.
      vocab: {token: id}.
      added: list of {'id', 'content', 'special'} and flags, as in a tokenizer.json.
      eos: list of the ids that the file itself says end a text.
      template: text of a chat template; None takes the directory's own, if it has one.
      begins: the begin token's text -> whether the file itself says that texts begin with it.
    """
    self.path = path
    config, more_eos, own_template = _beside(path)
    try:
      tokens = [*added, *({**t, 'id': int(i)} for i, t in config.get('added_tokens_decoder', {}).items())]
      odd = [t['content'] for t in tokens if t.get('lstrip') or t.get('rstrip') or t.get('single_word')]
      self.added = {t['content']: _checked(t)['id'] for t in reversed(tokens)}
      self.special = {t['content'] for t in tokens if t.get('special')}
      names = {k: v['content'] if isinstance(v, dict) else v for k, v in config.items() if k.endswith('_token')}
      self._names = {k: v for k, v in names.items() if v and isinstance(v, str)}  # not add_bos_token
    except (AttributeError, KeyError, TypeError, ValueError) as error:
      raise TokenizerError(
        f'{path}: its added tokens, or those of tokenizer_config.json beside it, cannot be read '
        f'({error!r}); fetch both again.'
      ) from error
    if odd:
      raise TokenizerError(
        f'{path}: the added token {odd[0]!r} strips spaces or wants whole words, which is not '
        'supported; clear its lstrip, rstrip and single_word.'
      )
    ids = vocab | self.added
    if not ids:
      raise TokenizerError(f'{path}: holds no token; fetch it again.')
    for token in ids.keys() & self._names.values():
      self.added[token] = ids[token]
      self.special.add(token)
    self.vocab = max(ids.values()) + 1
    self.bos = ids.get(self._names.get('bos_token'))
    adds = config.get('add_bos_token')
    if adds is None:
      adds = self.bos is not None and begins(self._names['bos_token'])
    self._begin = [self.bos] if adds and self.bos is not None else []
    named = ids.get(self._names.get('eos_token'))
    self.eos = tuple(dict.fromkeys([*([] if named is None else [named]), *eos, *more_eos]))
    if not self.eos:
      raise TokenizerError(
        f'{path}: no token ends a text; name one as eos_token in tokenizer_config.json beside it, '
        'or its id as eos_token_id in generation_config.json.'
      )
    self._shown = {i: token for token, i in self.added.items() if token in self.special and i not in self.eos}
    self._any, self._special = chat.pattern(self.added), chat.pattern(self.special)
    self._not_special = chat.pattern(self.added.keys() - self.special)
    self._template = template or own_template  # run when it is wanted: most work is done without it

  @property
  def chats(self):
    """Whether there is a chat template."""
    return bool(self._template)

  def encode(self, text, special=False, bos=False):
    """Token ids. The text of a special token is only text, unless `special`.

    bos: begin with the token that the tokenizer's files say a text begins with, if any.
    """
    return (self._begin if bos else []) + self._ids((self._any if special else self._not_special).split(text))

  def chat(self, messages, generate=True):
    """Token ids of a conversation, as the chat template writes it.

    An added token's text inside a message stays text, so that no message can end itself or speak for another role.
    In an assistant's messages this holds for special tokens only: `<think>` and the like may stand there.

    Args:
      messages: list of {'role', 'content'}.
      generate: whether the beginning of an answer is put after them.

    Raises:
      TokenizerError: there is no chat template, or it refuses the messages; one line.
    """
    if not self._template:
      raise TokenizerError(
        f'{self.path}: no chat template; put a chat_template.jinja beside it, or load it with '
        f'chat_template= one of {", ".join(chat.CHAT_TEMPLATES)}.'
      )
    marked, sign = self._try(chat.mark, messages, self._any, self._special)
    text = self._try(chat.render, self._template, self._names | {'messages': marked, 'add_generation_prompt': generate})
    return self._ids([part.replace(sign, '') for part in self._any.split(text)])

  def response(self, ids):
    """(text, control) of a response, as it is graded: its special tokens are text, but those that end a response.

    control: the special tokens' texts in it, in order.
    """
    control = tuple(self._shown[int(i)] for i in ids if int(i) in self._shown)
    return ''.join(self.pieces(ids)) if control else self.decode(ids), control

  def pieces(self, ids):
    """Yields the text that each id completes, and what is left at the end; together the text of `response`."""
    stream = self.stream()
    for i in map(int, ids):
      yield stream.push(i) + (stream.end() + self._shown[i] if i in self._shown else '')
    yield stream.end()

  def _ids(self, parts):
    """Ids of texts and, at odd places, added tokens."""
    ids = []
    for n, part in enumerate(parts):
      if re.search('[\ud800-\udfff]', part):
        raise TokenizerError('the text holds half of a surrogate pair, which is no character; leave it out.')
      ids += [self.added[part]] if n % 2 else self._encode(part) if part else []
    return ids

  def _try(self, function, *args, **kwargs):
    try:
      return function(*args, **kwargs)
    except Exception as error:  # a template is somebody else's program: it may raise anything
      raise TokenizerError(
        f'{self.path}: its chat template fails ({one_line(error)}); correct the template or the messages.'
      ) from error


class Stream:
  """Text of ids as they come; put together it is what `decode` gives for all of them.

  Args of the constructor: read: id -> bytes, or None for one before which all bytes must be complete. errors: for
  bytes that are no UTF-8, 'replace' (one U+FFFD for a broken character) or 'surrogateescape' (one for each byte).
  """

  def __init__(self, read, errors):
    self._read, self._decoder = read, codecs.getincrementaldecoder('utf-8')(errors)

  def push(self, i):
    """The text that this id completes; the bytes of a character wait until they are all there."""
    data = self._read(int(i))
    return self.end() if data is None else self._text(data)

  def end(self):
    """What is left when no more ids come."""
    return self._text(b'', final=True)

  def _text(self, data, final=False):
    return re.sub('[\udc80-\udcff]', '\ufffd', self._decoder.decode(data, final))  # surrogateescape writes these


def one_line(error):
  """What an exception says, in short."""
  return ' '.join(str(error)[:10_000].split())[:500] or type(error).__name__


def read_json(path):
  """The object in a JSON file. Raises TokenizerError."""
  if not modelfiles.find_json(path, TokenizerError):
    raise TokenizerError(f'{path} is missing; fetch it.')
  try:
    with open(path, encoding='utf-8') as f:
      found = json.load(f)
  except (OSError, ValueError, RecursionError) as error:
    raise TokenizerError(f'{path}: cannot be read as JSON ({error}); fetch it again.') from error
  if not isinstance(found, dict):
    raise TokenizerError(f'{path}: holds a {type(found).__name__}, not an object; fetch it again.')
  return found


def _is_id(value):
  return type(value) is int and 0 <= value < 1 << 31


def _checked(token):
  """An added token; ValueError where it can be none, TypeError and the like where it is of another shape."""
  if not token['content'].encode() or not _is_id(token['id']):
    raise ValueError(f'{token["content"][:100]!r} with id {str(token["id"])[:20]}')
  return token


def _beside(path):
  """(tokenizer_config.json as a dict, ids that end a text, chat template or None) in the folder of `path`."""
  there = lambda name: modelfiles.find_json(os.path.join(os.path.dirname(path), name), TokenizerError)
  read = lambda name: read_json(os.path.join(os.path.dirname(path), name)) if there(name) else {}
  config = read('tokenizer_config.json')
  if 'added_tokens_decoder' not in config:  # otherwise it says all that the older file does
    config |= read('special_tokens_map.json')
  eos = []
  for name in ('generation_config.json', 'config.json'):
    found = read(name).get('eos_token_id')
    eos += found if isinstance(found, list) else [] if found is None else [found]
    if not all(_is_id(i) for i in eos):
      raise TokenizerError(
        f'{path}: eos_token_id in {name} beside it is {repr(found)[:100]}, not an id or a list of ids; correct it.'
      )
  template = config.get('chat_template')
  if isinstance(template, list):
    template = next((t['template'] for t in template if isinstance(t, dict) and t.get('name') == 'default'), None)
  if there('chat_template.jinja'):
    with open(os.path.join(os.path.dirname(path), 'chat_template.jinja'), encoding='utf-8', errors='replace') as f:
      template = f.read()
  return config, eos, template
