"""A model behind an OpenAI-compatible endpoint, as a function from chats to texts.

Answers are cached by a hash of the whole request, so that a run that goes on asks nothing twice. The endpoint's key
stands in no file, message or log, not even where the endpoint repeats it.
"""

import concurrent.futures
import contextlib
import email.utils
import hashlib
import json
import logging
import math
import os
import pathlib
import random
import re
import socket
import threading
import time
import zlib

from r1jax import templates
from r1jax.config import ConfigError, require

log = logging.getLogger('r1jax')

_REFUSED = (400, 413, 422)  # this request, not all: too long, or the opinion of a filter
_AGAIN = (408, 425, 429)  # and 5xx
_FIRST, _LONGEST = 1.0, 60.0  # seconds between two tries, unless the endpoint asks for more
_LARGEST = 16 << 20  # bytes of an answer, unpacked
_SECRET = 8  # characters; a shorter key ('EMPTY', 'none') is a placeholder and may stand in texts


class EndpointError(RuntimeError):
  """The endpoint does not answer, or not as it should; one line."""


class _Refusal(EndpointError):
  """One request is refused for what it holds."""


class Endpoint:
  """A function from chats to texts, through POST `url`/chat/completions.

  429, 5xx, time-outs and broken connections are tried again: after `Retry-After` at least, otherwise ever later, and
  at random so that many do not come back at once. Anything else that is no answer raises at once.

  Args:
    url: up to and without /chat/completions, such as https://api.deepseek.com/v1.
    model: its name there.
    api_key_env: name of the environment variable that holds the key; '' sends none.
    cache: folder of answers, which several processes may share; '' keeps none.
    concurrency: requests at a time, of all threads of this process that call.
    timeout: seconds to connect, and for an answer to begin or go on (it begins when the model has finished).
    deadline: seconds for one call, with all its chats and tries, however slowly an answer drips in.
    retries: of one request, after its first try.
    temperature: 0 is greedy, as far as the endpoint is.
    max_tokens: of an answer, thinking included.
    extra: further fields of the request's body, as {'top_p': 0.9}; None takes a field out.
    whole: answers are JSON, `{"response", "stop", "tokens"}`: with the thinking that the endpoint gives beside the text
      (`reasoning_content` or `reasoning`) in think tags before it; 'eos', 'length' or another reason of the end; and
      how many tokens it counts, null where it says nothing of them or nothing that is a count.

  Raises:
    ConfigError: no httpx, or a setting that cannot work.
  """

  def __init__(
    self,
    url,
    model,
    *,
    api_key_env='',
    cache='',
    concurrency=8,
    timeout=120.0,
    deadline=1800.0,
    retries=6,
    temperature=0.0,
    max_tokens=2048,
    extra=None,
    whole=False,
  ):
    try:
      import httpx  # an extra: nothing else needs it
    except ImportError as error:
      raise ConfigError(
        "an endpoint needs httpx, which is not installed; install the extra 'judge': pip install 'r1jax[judge]'."
      ) from error
    require(model, 'model is empty; name the model that the endpoint is to answer with.')
    require(
      isinstance(concurrency, int) and isinstance(retries, int) and concurrency >= 1 and retries >= 0,
      f'concurrency {concurrency} must be 1, 2, ... and retries {retries} 0, 1, ...',
    )
    require(
      0 < timeout <= threading.TIMEOUT_MAX and 0 < deadline <= threading.TIMEOUT_MAX,
      f'timeout {timeout} s and deadline {deadline} s must be positive, and at most {threading.TIMEOUT_MAX:g}.',
    )
    self._url, self._key, self._key_env = _address(url, httpx), _key(api_key_env), api_key_env
    self._shown_key = _however_written(self._key) if len(self._key) >= _SECRET else None
    self._fields = {'model': model, 'temperature': temperature, 'max_tokens': max_tokens} | dict(extra or {})
    self._sampled, self._whole = temperature > 0, whole
    self._cache = pathlib.Path(cache) if cache else None
    self._timeout, self._deadline, self._retries = timeout, deadline, retries
    for chatty in ('httpx', 'httpcore'):  # a line for each request, and the headers of its answer
      logging.getLogger(chatty).setLevel(logging.WARNING)
    headers = {'Content-Type': 'application/json', 'Accept-Encoding': 'identity'}
    headers |= {'Authorization': f'Bearer {self._key}'} if self._key else {}
    # A connection serves one request, which can then be ended by hanging up.
    self._client = httpx.Client(
      headers=headers, limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=0)
    )
    self._failures = httpx.RequestError
    self._threads = concurrent.futures.ThreadPoolExecutor(concurrency, thread_name_prefix='endpoint')

  def __call__(self, chats, draws=None):
    """What the model says to each chat.

    Args:
      chats: list of lists of {'role', 'content'}. Equal requests are sent once.
      draws: an int for each, telling samples of one chat apart (sent as `seed`, unless greedy); None: 0 for all.

    Returns:
      List of str; None where the endpoint refuses this one request (400, 413, 422).

    Raises:
      EndpointError: what remains after all tries, or at the deadline; or every request is refused.
    """
    bodies = [self._body(*pair) for pair in zip(chats, draws or [0] * len(chats), strict=True)]
    kind = '\nwhole' if self._whole else ''
    keys = [hashlib.sha256(f'{self._url}\n{body}{kind}'.encode()).hexdigest() for body in bodies]
    until, stop = time.monotonic() + self._deadline, threading.Event()
    futures = {
      key: self._threads.submit(self._answer, key, body, until, stop) for key, body in dict(zip(keys, bodies)).items()
    }
    try:
      for future in concurrent.futures.as_completed(futures.values()):
        future.result()  # the first error ends the call
    finally:
      stop.set()
      for future in futures.values():
        future.cancel()
    found = [futures[key].result() for key in keys]
    refused = [x for x in found if isinstance(x, _Refusal)]
    if found and len(refused) == len(found):
      raise refused[0]
    if refused:
      log.warning('judge: %d of %d requests were refused; the last: %s', len(refused), len(found), refused[-1])
    return [None if isinstance(x, _Refusal) else x for x in found]

  def _body(self, chat, draw):
    fields = self._fields | {'messages': chat} | ({'seed': draw} if self._sampled else {})
    return json.dumps({k: v for k, v in fields.items() if v is not None}, sort_keys=True)

  def _answer(self, key, body, until, stop):
    """A text from the cache or the endpoint, or the _Refusal."""
    text = self._look_up(key)
    if text is None:
      try:
        text = self._ask(body, until, stop)
      except _Refusal as refusal:
        return refusal
      self._keep(key, text)
    return text

  def _ask(self, body, until, stop):
    for attempt in range(self._retries + 1):
      wait = random.uniform(0.5, 1.0) * min(_LONGEST, _FIRST * 2.0 ** min(attempt, 10))
      try:
        status, asks, data = self._post(body, until)
      except self._failures as error:
        said = f'{type(error).__name__}: {self._line(str(error))}'
      else:
        if status == 200:
          return self._content(data)
        said = f'HTTP {status}, {self._line(data.decode("utf-8", "replace"))}'
        if status in _REFUSED:
          raise _Refusal(f'{self._url} refuses a request: {said}')
        if status not in _AGAIN and status < 500:
          what = (
            f'the key in {self._key_env or "a variable, and name it in api_key_env"}'
            if status in (401, 403)
            else f'url, and that it has the model {self._fields["model"]!r}'
          )
          raise EndpointError(f'{self._url} answers {said}; check {what}.')
        wait = max(wait, asks)
      if attempt == self._retries:
        raise EndpointError(f'{self._url} did not answer in {attempt + 1} tries; the last: {said}')
      if time.monotonic() + wait > until:
        self._late(f'; another try is due in {wait:.0f} s; the last: {said}')
      if stop.wait(wait):
        raise EndpointError(f'{self._url}: given up, as another request failed.')

  def _post(self, body, until):
    """(status, seconds to wait by Retry-After, bytes) of an answer; raises httpx.RequestError."""
    left, data, sockets = until - time.monotonic(), bytearray(), []
    if left <= 0:
      self._late('; raise deadline or concurrency.')

    def opened(event, about):  # httpx's time-outs are for one read, not for all of them
      stream = about.get('return_value')
      if hasattr(stream, 'get_extra_info'):
        sockets.append(stream.get_extra_info('socket'))
        if time.monotonic() >= until:
          _hang_up(sockets)

    timer = threading.Timer(left, _hang_up, [sockets])
    timer.daemon = True
    timer.start()
    try:
      with self._client.stream(
        'POST', self._url, content=body, timeout=min(self._timeout, left), extensions={'trace': opened}
      ) as answer:
        for piece in answer.iter_raw():
          data += piece
          if len(data) > _LARGEST:
            self._too_large()
        status, headers = answer.status_code, answer.headers
    except self._failures:
      if time.monotonic() < until:
        raise
    finally:
      timer.cancel()
    if time.monotonic() >= until:
      self._late(', but in part.' if data else '.')
    return status, _seconds(headers.get('retry-after', '')), self._unpacked(data, headers.get('content-encoding', ''))

  def _unpacked(self, data, codings):
    """The bytes of an answer, which may be packed although that was not asked for."""
    codings = [name for name in re.split('[, ]+', codings.lower()) if name not in ('', 'identity')]
    if len(codings) > 2 or set(codings) - {'gzip', 'x-gzip', 'deflate'}:
      raise EndpointError(
        f'{self._url} answers in the coding {self._line(", ".join(codings))!r}, which was not asked '
        'for; turn that off there.'
      )
    for _ in codings:
      unpack = zlib.decompressobj(wbits=47)  # gzip or zlib, by the first bytes
      try:
        data = unpack.decompress(data, _LARGEST + 1)
      except zlib.error as error:
        raise EndpointError(
          f'{self._url} answers with damaged compressed data ({error}); is it such an endpoint?'
        ) from None
      if len(data) > _LARGEST:
        self._too_large()
    return bytes(data)

  def _too_large(self):
    raise EndpointError(f'{self._url} answers with over {_LARGEST} bytes; is it such an endpoint?')

  def _late(self, how):
    raise EndpointError(f'{self._url} did not answer by the deadline of {self._deadline:g} s{how}')

  def _content(self, data):
    """The text of a chat completion; '' where the model said nothing, as when its thinking took all tokens."""
    try:
      found = json.loads(data)
      return _whole(found, self._text) if self._whole else self._text(found['choices'][0]['message']['content'])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
      raise EndpointError(
        f'{self._url} answers with no chat completion in JSON but with '
        f'{self._line(data.decode("utf-8", "replace"))!r}; check url.'
      ) from None

  def _text(self, value):
    """A field that holds a text or nothing, without the key; TypeError for anything else."""
    text = '' if value is None else value + ''
    return self._shown_key.sub('***', text) if self._shown_key else text

  def _line(self, text):
    """The beginning of a text in one line, without the key."""
    if self._key:
      text = self._shown_key.sub('***', text) if self._shown_key else text.replace(self._key, '***')
    return ' '.join(''.join(c if c.isprintable() else ' ' for c in text[:10_000]).split())[:200]

  def _look_up(self, key):
    """The text kept under `key`; None where there is none, or a damaged one."""
    if not self._cache:
      return None
    try:
      digest, _, data = (self._cache / key[:2] / key).read_bytes().partition(b'\n')
      text = data.decode('utf-8', 'surrogatepass')
      sound = digest == _digest(key, data) and (not self._whole or _is_whole(json.loads(text)))
      return text if sound else None
    except (OSError, ValueError, RecursionError):
      return None

  def _keep(self, key, text):
    """Keeps a text, whole or not at all: a process that is killed here leaves a file that nobody reads."""
    if not self._cache:
      return
    data, path = text.encode('utf-8', 'surrogatepass'), self._cache / key[:2] / key
    temporary = path.with_name(f'{key}.{os.getpid()}.{threading.get_ident()}')
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      temporary.write_bytes(_digest(key, data) + b'\n' + data)
      os.replace(temporary, path)
    except OSError as error:  # the answer was paid for; it counts without the cache
      log.warning('judge: the cache %s cannot be written: %s', self._cache, error)
      with contextlib.suppress(OSError):
        temporary.unlink()


def _whole(found, read):
  """The JSON that an Endpoint with `whole` gives for a chat completion; TypeError and the like where it is none.

  read: a field that holds a text or nothing -> str.
  """
  choice, usage = found['choices'][0], found.get('usage')
  message = choice['message']
  text, why = read(message['content']), read(choice.get('finish_reason')) or 'stop'
  thinking = read(message.get('reasoning_content')) or read(message.get('reasoning'))
  if thinking:
    text = f'{templates.THINK}{thinking}{templates.THINK_END}{text}'
  tokens = usage.get('completion_tokens') if isinstance(usage, dict) else None
  return json.dumps(
    {'response': text, 'stop': 'eos' if why == 'stop' else why, 'tokens': tokens if _is_count(tokens) else None}
  )


def _is_count(value):
  return type(value) is int and 0 <= value < 1 << 31


def _is_whole(found):
  """Whether what an older version kept is what `_whole` gives."""
  return (
    isinstance(found, dict)
    and all(isinstance(found.get(key), str) for key in ('response', 'stop'))
    and (found['tokens'] is None or _is_count(found['tokens']))
  )


def _however_written(key):
  """A regular expression for a key that may be broken by white space or escaped as in JSON, HTML or an address."""
  gap = r'(?:[^!-~]|\\[nrt]|\\u00[0-2][0-9a-fA-F])*'
  forms = [rf'(?:\\?{re.escape(c)}|(?i:\\u{ord(c):04x}|%{ord(c):02x}|&\#{ord(c)};|&\#x{ord(c):x};))' for c in key]
  return re.compile(gap.join(forms))


def _hang_up(sockets):
  for connection in list(sockets):
    with contextlib.suppress(OSError):  # it may be closed already
      socket.socket.shutdown(connection, socket.SHUT_RDWR)  # not TLS's own, which would take its state away


def _digest(key, data):
  return hashlib.sha256(key.encode() + data).hexdigest().encode()


def _address(url, httpx):
  """Where to post. A user, a query or a fragment is not shown: a key stands in such."""
  try:
    parsed = httpx.URL(url)
  except (httpx.InvalidURL, TypeError) as error:
    raise ConfigError(f'url is no address: {error}.') from None
  require(
    not parsed.userinfo and not parsed.query and not parsed.fragment,
    'url holds a user, a query or a fragment; leave it out, and name the variable of the key in api_key_env.',
  )
  require(
    parsed.scheme in ('http', 'https') and parsed.host, f'url is {url!r}; it must begin with https:// or http://.'
  )
  return url.rstrip('/').removesuffix('/chat/completions') + '/chat/completions'


def _key(name):
  """The key in the environment variable `name`, '' for no name. The name is not shown: it may be the key by mistake."""
  require(
    re.fullmatch('[A-Z_][A-Z0-9_]*|', name),
    'api_key_env is no name of an environment variable in capitals; give its name, not the key.',
  )
  key = os.environ.get(name, '').strip() if name else ''
  require(key or not name, 'the environment variable that api_key_env names is empty or not set; put the key there.')
  require(re.fullmatch('[!-~]*', key), 'the key that api_key_env names holds a space or a character that is not ASCII.')
  return key


def _seconds(value):
  """Of a Retry-After header, a number or a date; 0 where it is neither."""
  try:
    seconds = float(value)
  except ValueError:
    try:
      seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
      return 0.0
  return max(seconds, 0.0) if math.isfinite(seconds) else 0.0
