"""What all tokenizers share: special tokens, chats, streams, and the other files of the tokenizer's directory."""

import abc
import codecs
import json
import os
import re

from r1jax import modelfiles
from r1jax.tokenizers import chat


class TokenizerError(ValueError):
  """A tokenizer cannot be used, or not in this way; the message names its file."""


class Tokenizer(abc.ABC):
  """Encodes and decodes text.

  Attributes:
    path: str, the tokenizer's file.
    ids: {token: id}, added tokens included.
    vocab: int, the highest id plus one.
    eos: tuple of the ids of end tokens, the default one first.
    bos: id of the begin token, or None.
    added: {text: id} of the added tokens, which are split off a text before anything else.
    special: set of the added tokens that are control tokens: text is encoded to one only on request, and they are not
      decoded to text.
    template: text of the chat template, or None.
  """

  def __init__(self, path, vocab, added, eos, template, adds_bos=lambda bos: True):
    """The other files of the directory take precedence over `added`.

    Args:
      path: the tokenizer's file.
      vocab: {token: id}.
      added: list of {'id', 'content', 'special'} and flags, as in a tokenizer.json.
      eos: list of the ids of end tokens in the file itself.
      template: text of a chat template; None uses the directory's own, if it has one.
      adds_bos: function from the begin token's text to whether the file itself puts it at the start of texts.
    """
    self.path = path
    config, directory_eos, directory_template = _read_directory(path)
    try:
      tokens = [*added, *({**t, 'id': int(i)} for i, t in config.get('added_tokens_decoder', {}).items())]
      unsupported = [t['content'] for t in tokens if t.get('lstrip') or t.get('rstrip') or t.get('single_word')]
      self.added = {t['content']: _check_added_token(t)['id'] for t in reversed(tokens)}
      self.special = {t['content'] for t in tokens if t.get('special')}
      names = {k: v['content'] if isinstance(v, dict) else v for k, v in config.items() if k.endswith('_token')}
      self._names = {k: v for k, v in names.items() if v and isinstance(v, str)}  # not add_bos_token
    except (AttributeError, KeyError, TypeError, ValueError) as error:
      raise TokenizerError(
        f'{path}: its added tokens, or those in tokenizer_config.json, cannot be read ({error!r}); fetch both again.'
      ) from error
    if unsupported:
      raise TokenizerError(
        f'{path}: the added token {unsupported[0]!r} strips spaces or matches whole words only, which is not '
        'supported; set its lstrip, rstrip and single_word to false.'
      )
    self.ids = ids = vocab | self.added
    if not ids:
      raise TokenizerError(f'{path}: has no tokens; fetch it again.')
    for token in ids.keys() & self._names.values():
      self.added[token] = ids[token]
      self.special.add(token)
    self.vocab = max(ids.values()) + 1
    self.bos = ids.get(self._names.get('bos_token'))
    add_bos = config.get('add_bos_token')
    if add_bos is None:
      add_bos = self.bos is not None and adds_bos(self._names['bos_token'])
    self._begin = [self.bos] if add_bos and self.bos is not None else []
    named_eos = ids.get(self._names.get('eos_token'))
    all_eos = [*([] if named_eos is None else [named_eos]), *eos, *directory_eos]
    self.eos: tuple[int, ...] = tuple(dict.fromkeys(all_eos))
    if not self.eos:
      raise TokenizerError(
        f'{path}: there is no end token; name one as eos_token in tokenizer_config.json, or its id as eos_token_id in '
        'generation_config.json, in the same directory.'
      )
    self._visible_control = {i: token for token, i in self.added.items() if token in self.special and i not in self.eos}
    self._any_pattern, self._special_pattern = chat.pattern(self.added), chat.pattern(self.special)
    self._not_special_pattern = chat.pattern(self.added.keys() - self.special)
    self.template = template or directory_template  # only compiled when needed: most runs have no chats

  @property
  def chats(self):
    """Whether there is a chat template."""
    return bool(self.template)

  def encode(self, text, special=False, bos=False):
    """Encodes a text to a list of token ids.

    Args:
      text: the text.
      special: whether the text of a special token becomes that token, or stays text.
      bos: whether to start with a begin token, if the tokenizer's files say that texts start with one.

    Raises:
      TokenizerError: the text has half of a surrogate pair.
    """
    pattern = self._any_pattern if special else self._not_special_pattern
    return (self._begin if bos else []) + self._encode_parts(pattern.split(text))

  def chat(self, messages, generate=True):
    """Encodes a conversation with the chat template to a list of token ids.

    The text of an added token inside a message stays text, so that no message can end itself or speak for another role.
    In assistant messages this holds for special tokens only: they may contain `<think>` and the like.

    Args:
      messages: list of {'role', 'content'}.
      generate: whether to append the start of an assistant message.

    Raises:
      TokenizerError: there is no chat template, or it refuses the messages; the message is one line.
    """
    marked, mark = self._call_template(chat.mark, messages, self._any_pattern, self._special_pattern)
    text = self.render(marked, generate)
    return self._encode_parts([part.replace(mark, '') for part in self._any_pattern.split(text)])

  def render(self, messages, generate=True):
    """Writes a conversation as a text by the chat template, as transformers does.

    Encoded with `special`, the text of a special token inside a message becomes that token, unlike with `chat`.

    Args, Raises: as for `chat`.
    """
    if not self.template:
      raise TokenizerError(
        f'{self.path}: no chat template; put a chat_template.jinja into the directory, or pass chat_template, one of '
        f'{", ".join(chat.CHAT_TEMPLATES)}.'
      )
    values = self._names | {'messages': messages, 'add_generation_prompt': generate}
    return self._call_template(chat.render, self.template, values)

  def response(self, ids):
    """Decodes a response for grading: special tokens become text, except end tokens.

    Returns:
      (text, tuple of the texts of the special tokens in it, in order).
    """
    control = tuple(self._visible_control[int(i)] for i in ids if int(i) in self._visible_control)
    return ''.join(self.pieces(ids)) if control else self.decode(ids), control

  def pieces(self, ids):
    """Yields the text that each id completes, then the rest; concatenated they are the text of `response`."""
    stream = self.stream()
    for i in map(int, ids):
      yield stream.push(i) + (stream.end() + self._visible_control[i] if i in self._visible_control else '')
    yield stream.end()

  @abc.abstractmethod
  def decode(self, ids) -> str:
    """Decodes ids to text. Special tokens and ids that only pad the model's vocabulary become no text."""

  @abc.abstractmethod
  def stream(self) -> 'Stream':
    """Returns a Stream, whose `push(id)` and `end()` return the text one id at a time."""

  @abc.abstractmethod
  def _encode(self, text) -> list[int]:
    """Encodes a text without added tokens."""

  def _encode_parts(self, parts):
    """Encodes a list in which texts alternate with added tokens, which have the odd indices."""
    ids = []
    for n, part in enumerate(parts):
      if re.search('[\ud800-\udfff]', part):
        raise TokenizerError('the text has half of a surrogate pair, which is not a character; remove it.')
      ids += [self.added[part]] if n % 2 else self._encode(part) if part else []
    return ids

  def _call_template(self, function, *args, **kwargs):
    try:
      return function(*args, **kwargs)
    except Exception as error:  # a template is a foreign program and may raise anything
      raise TokenizerError(
        f'{self.path}: its chat template fails ({one_line(error)}); correct the template or the messages.'
      ) from error


class Stream:
  """Decodes ids one at a time; concatenated, the texts are what `decode` returns for all ids.

  Args:
    to_bytes: function id -> bytes, or None for an id before which all characters must be complete.
    errors: for bytes that are not UTF-8, 'replace' (one U+FFFD per broken character) or 'surrogateescape' (one per
      byte).
  """

  def __init__(self, to_bytes, errors):
    self._to_bytes, self._decoder = to_bytes, codecs.getincrementaldecoder('utf-8')(errors)

  def push(self, i):
    """Returns the text that this id completes; bytes of an incomplete character are kept back."""
    data = self._to_bytes(int(i))
    return self.end() if data is None else self._decode(data)

  def end(self):
    """Returns the remaining text after the last id."""
    return self._decode(b'', final=True)

  def _decode(self, data, final=False):
    # With 'surrogateescape' the decoder writes a surrogate for each bad byte.
    return re.sub('[\udc80-\udcff]', '\ufffd', self._decoder.decode(data, final))


def one_line(error):
  """Returns the message of an exception on one line, cut to 500 characters."""
  return ' '.join(str(error)[:10_000].split())[:500] or type(error).__name__


def read_json(path):
  """Returns the dict in a JSON file. Raises TokenizerError."""
  if not modelfiles.json_exists(path, TokenizerError):
    raise TokenizerError(f'{path} is missing; fetch it.')
  try:
    with open(path, encoding='utf-8') as f:
      value = json.load(f)
  except (OSError, ValueError, RecursionError) as error:
    raise TokenizerError(f'{path}: cannot be read as JSON ({error}); fetch it again.') from error
  if not isinstance(value, dict):
    raise TokenizerError(f'{path}: contains a {type(value).__name__}, not an object; fetch it again.')
  return value


def _is_id(value):
  return type(value) is int and 0 <= value < 1 << 31


def _check_added_token(token):
  """Returns an added token; raises ValueError if it is not valid, TypeError and the like if it has another shape."""
  if not token['content'].encode() or not _is_id(token['id']):
    raise ValueError(f'{token["content"][:100]!r} with id {str(token["id"])[:20]}')
  return token


def _read_directory(path):
  """Returns (dict of tokenizer_config.json, ids of end tokens, chat template or None) from the folder of `path`."""
  exists = lambda name: modelfiles.json_exists(os.path.join(os.path.dirname(path), name), TokenizerError)
  read = lambda name: read_json(os.path.join(os.path.dirname(path), name)) if exists(name) else {}
  config = read('tokenizer_config.json')
  if 'added_tokens_decoder' not in config:  # otherwise the config has everything that is in the older file
    config |= read('special_tokens_map.json')
  eos = []
  for name in ('generation_config.json', 'config.json'):
    value = read(name).get('eos_token_id')
    eos += value if isinstance(value, list) else [] if value is None else [value]
    if not all(_is_id(i) for i in eos):
      raise TokenizerError(
        f'{path}: eos_token_id in {name} is {repr(value)[:100]}, not an id or a list of ids; correct it.'
      )
  template = config.get('chat_template')
  if isinstance(template, list):
    template = next((t['template'] for t in template if isinstance(t, dict) and t.get('name') == 'default'), None)
  if exists('chat_template.jinja'):
    with open(os.path.join(os.path.dirname(path), 'chat_template.jinja'), encoding='utf-8', errors='replace') as f:
      template = f.read()
  return config, eos, template
