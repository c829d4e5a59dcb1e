"""A model behind an OpenAI-compatible endpoint, as a function from chats to texts.

Responses are cached by a hash of the whole request, so a run that is resumed sends no request twice. The API key is
never written to a file, message or log, even if the endpoint repeats it.
"""

import concurrent.futures
import contextlib
import dataclasses
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
from r1jax.rewards.neural import api_key

log = logging.getLogger('r1jax')

_REFUSED = (400, 413, 422)  # only this request fails: it is too long, or stopped by a filter
_RETRIED = (408, 425, 429)  # and 5xx
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0  # seconds between two attempts, unless the endpoint asks for more
_LARGEST = 16 << 20  # bytes of a response, decompressed


class EndpointError(RuntimeError):
  """The endpoint does not respond, or responds with an error. The message is one line."""


class _Refusal(EndpointError):
  """The endpoint refuses a single request because of its content."""


@dataclasses.dataclass(eq=False)
class Endpoint:
  """A function from chats to texts, through POST `url`/chat/completions.

  Requests that fail with 429, 5xx, a timeout or a broken connection are retried: not before `Retry-After`, else with
  exponential backoff and jitter. Any other failure raises at once.

  Raises:
    ConfigError: httpx is not installed, or a setting is invalid.
  """

  url: str  # address without /chat/completions, such as https://api.deepseek.com/v1
  model: str  # name of the model at the endpoint
  _: dataclasses.KW_ONLY
  api_key_env: str = ''  # name of the environment variable that holds the API key; '' sends none
  cache: str = ''  # folder in which responses are kept; several processes may share it. '' keeps none
  concurrency: int = 8  # requests at a time, counted over all threads of this process
  # Seconds to connect, and to wait for the next part of a response (the first comes when the model has finished).
  timeout: float = 120.0
  deadline: float = 1800.0  # seconds for one call with all its chats and retries, however slowly responses arrive
  retries: int = 6  # of one request, after its first attempt
  temperature: float = 0.0  # 0 is greedy, if the endpoint supports that
  max_tokens: int = 2048  # longest response in tokens, including its thinking
  extra: dict | None = None  # further fields of the request body, such as {'top_p': 0.9}; None removes a field
  # Return each response as JSON, `{"response", "stop", "tokens"}`. 'response' begins with the thinking in think tags if
  # the endpoint returns it separately (`reasoning_content` or `reasoning`). 'stop' is 'eos', 'length' or another finish
  # reason. 'tokens' is the number of tokens by the endpoint's count, or null if it gives no valid one.
  whole: bool = False

  def __post_init__(self):
    try:
      import httpx  # an optional dependency that nothing else needs
    except ImportError as error:
      raise ConfigError(
        "an endpoint needs httpx, which is not installed; install the extra 'judge': pip install 'r1jax[judge]'."
      ) from error
    require(self.model, 'model is empty; give the name of a model at the endpoint.')
    require(
      isinstance(self.concurrency, int)
      and isinstance(self.retries, int)
      and min(self.concurrency, self.retries + 1) >= 1,
      f'concurrency {self.concurrency} must be an integer of at least 1, and retries {self.retries} one of at least 0.',
    )
    require(
      0 < self.timeout <= threading.TIMEOUT_MAX and 0 < self.deadline <= threading.TIMEOUT_MAX,
      f'timeout {self.timeout} s and deadline {self.deadline} s must be positive, and at most '
      f'{threading.TIMEOUT_MAX:g}.',
    )
    self._url, self._key = _completions_url(self.url, httpx), api_key.read(self.api_key_env)
    self._key_pattern = api_key.pattern(self._key) if len(self._key) >= api_key.SECRET else None
    fields = {'model': self.model, 'temperature': self.temperature, 'max_tokens': self.max_tokens}
    self._fields = fields | dict(self.extra or {})
    self._cache = pathlib.Path(self.cache) if self.cache else None
    for library in ('httpx', 'httpcore'):  # they log each request, and the headers of its response
      logging.getLogger(library).setLevel(logging.WARNING)
    headers = {'Content-Type': 'application/json', 'Accept-Encoding': 'identity'}
    headers |= {'Authorization': f'Bearer {self._key}'} if self._key else {}
    # Each request has its own connection, so that it can be aborted by closing the connection.
    self._client = httpx.Client(
      headers=headers, limits=httpx.Limits(max_connections=self.concurrency, max_keepalive_connections=0)
    )
    self._failures = httpx.RequestError
    self._threads = concurrent.futures.ThreadPoolExecutor(self.concurrency, thread_name_prefix='endpoint')

  def __call__(self, chats, draws=None):
    """Returns the model's response to each chat.

    Args:
      chats: list of lists of {'role', 'content'}. Identical requests are sent once.
      draws: an int per chat that distinguishes samples of the same chat (sent as `seed`, unless greedy); None: 0 for
        all.

    Returns:
      list of str; None for a chat whose request the endpoint refuses (400, 413, 422).

    Raises:
      EndpointError: a request fails after all retries or at the deadline, or every request is refused.
    """
    bodies = [self._body(*pair) for pair in zip(chats, draws or [0] * len(chats), strict=True)]
    kind = '\nwhole' if self.whole else ''
    keys = [hashlib.sha256(f'{self._url}\n{body}{kind}'.encode()).hexdigest() for body in bodies]
    deadline, stop = time.monotonic() + self.deadline, threading.Event()
    futures = {
      key: self._threads.submit(self._answer, key, body, deadline, stop)
      for key, body in dict(zip(keys, bodies)).items()
    }
    try:
      for future in concurrent.futures.as_completed(futures.values()):
        future.result()  # the first error ends the call
    finally:
      stop.set()
      for future in futures.values():
        future.cancel()
    results = [futures[key].result() for key in keys]
    refused = [result for result in results if isinstance(result, _Refusal)]
    if results and len(refused) == len(results):
      raise refused[0]
    if refused:
      log.warning('endpoint: %d of %d requests were refused; the last: %s', len(refused), len(results), refused[-1])
    return [None if isinstance(result, _Refusal) else result for result in results]

  def _body(self, chat, draw):
    fields = self._fields | {'messages': chat} | ({'seed': draw} if self.temperature > 0 else {})
    return json.dumps({k: v for k, v in fields.items() if v is not None}, sort_keys=True)

  def _answer(self, key, body, deadline, stop):
    """Returns the text from the cache or the endpoint, or a _Refusal."""
    text = self._look_up(key)
    if text is None:
      try:
        text = self._ask(body, deadline, stop)
      except _Refusal as refusal:
        return refusal
      self._keep(key, text)
    return text

  def _ask(self, body, deadline, stop):
    for attempt in range(self.retries + 1):
      wait = random.uniform(0.5, 1.0) * min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** min(attempt, 10))
      try:
        status, retry_after, data = self._post(body, deadline)
      except self._failures as error:
        failure = f'{type(error).__name__}: {self._line(str(error))}'
      else:
        if status == 200:
          return self._content(data)
        failure = f'HTTP {status}, {self._line(data.decode("utf-8", "replace"))}'
        if status in _REFUSED:
          raise _Refusal(f'{self._url} refuses a request: {failure}')
        if status not in _RETRIED and status < 500:
          advice = (
            f'the key in {self.api_key_env or "a variable, and name it in api_key_env"}'
            if status in (401, 403)
            else f'url, and that it has the model {self._fields["model"]!r}'
          )
          raise EndpointError(f'{self._url} responds with {failure}; check {advice}.')
        wait = max(wait, retry_after)
      if attempt == self.retries:
        raise EndpointError(f'{self._url} did not respond in {attempt + 1} attempts; the last: {failure}')
      if time.monotonic() + wait > deadline:
        self._late(f'; the next attempt is due in {wait:.0f} s; the last: {failure}')
      if stop.wait(wait):
        raise EndpointError(f'{self._url}: aborted, because another request failed.')

  def _post(self, body, deadline):
    """Sends one request. Returns (status, seconds to wait by Retry-After, body); raises httpx.RequestError."""
    remaining, data, sockets = deadline - time.monotonic(), bytearray(), []
    if remaining <= 0:
      self._late('; increase deadline or concurrency.')

    def trace(event, info):  # collects the sockets, because the timeouts of httpx hold for a single read only
      stream = info.get('return_value')
      if hasattr(stream, 'get_extra_info'):
        sockets.append(stream.get_extra_info('socket'))
        if time.monotonic() >= deadline:
          _hang_up(sockets)

    timer = threading.Timer(remaining, _hang_up, [sockets])
    timer.daemon = True
    timer.start()
    try:
      with self._client.stream(
        'POST', self._url, content=body, timeout=min(self.timeout, remaining), extensions={'trace': trace}
      ) as response:
        for chunk in response.iter_raw():
          data += chunk
          if len(data) > _LARGEST:
            self._too_large()
        status, headers = response.status_code, response.headers
    except self._failures:
      if time.monotonic() < deadline:
        raise
    finally:
      timer.cancel()
    if time.monotonic() >= deadline:
      self._late(', only in part.' if data else '.')
    return (
      status,
      _retry_after(headers.get('retry-after', '')),
      self._decompress(data, headers.get('content-encoding', '')),
    )

  def _decompress(self, data, codings):
    """Decompresses a response body, which may be compressed although that was not requested."""
    codings = [name for name in re.split('[, ]+', codings.lower()) if name not in ('', 'identity')]
    if len(codings) > 2 or set(codings) - {'gzip', 'x-gzip', 'deflate'}:
      raise EndpointError(
        f'{self._url} responds with the content encoding {self._line(", ".join(codings))!r}, which was not requested; '
        'turn it off at the endpoint.'
      )
    for _ in codings:
      unpack = zlib.decompressobj(wbits=47)  # gzip or zlib, by the first bytes
      try:
        data = unpack.decompress(data, _LARGEST + 1)
      except zlib.error as error:
        raise EndpointError(f'{self._url} responds with corrupt compressed data ({error}); check url.') from None
      if len(data) > _LARGEST:
        self._too_large()
    return bytes(data)

  def _too_large(self):
    raise EndpointError(f'{self._url} responds with over {_LARGEST} bytes; check url.')

  def _late(self, details):
    raise EndpointError(f'{self._url} did not respond by the deadline of {self.deadline:g} s{details}')

  def _content(self, data):
    """The text of a chat completion; '' if it is null, as when the thinking has used up all tokens."""
    try:
      completion = json.loads(data)
      if self.whole:
        return _full_response(completion, self._text)
      return self._text(completion['choices'][0]['message']['content'])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
      raise EndpointError(
        f'{self._url} responds with {self._line(data.decode("utf-8", "replace"))!r}, which is no chat completion in '
        'JSON; check url.'
      ) from None

  def _text(self, value):
    """A field that holds a string or null, as a string with the API key masked; TypeError for anything else."""
    text = '' if value is None else value + ''
    return self._key_pattern.sub('***', text) if self._key_pattern else text

  def _line(self, text):
    """The beginning of a text as one line, with the API key masked."""
    if self._key:
      text = self._key_pattern.sub('***', text) if self._key_pattern else text.replace(self._key, '***')
    return ' '.join(''.join(c if c.isprintable() else ' ' for c in text[:10_000]).split())[:200]

  def _look_up(self, key):
    """The text cached under `key`; None if there is none, or it is damaged."""
    if not self._cache:
      return None
    try:
      digest, _, data = (self._cache / key[:2] / key).read_bytes().partition(b'\n')
      text = data.decode('utf-8', 'surrogatepass')
      valid = digest == _digest(key, data) and (not self.whole or _is_full_response(json.loads(text)))
      return text if valid else None
    except (OSError, ValueError, RecursionError):
      return None

  def _keep(self, key, text):
    """Caches a text atomically: a process that is killed here leaves only a temporary file that is never read."""
    if not self._cache:
      return
    data, path = text.encode('utf-8', 'surrogatepass'), self._cache / key[:2] / key
    temporary = path.with_name(f'{key}.{os.getpid()}.{threading.get_ident()}')
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      temporary.write_bytes(_digest(key, data) + b'\n' + data)
      os.replace(temporary, path)
    except OSError as error:  # the response can be used all the same
      log.warning('endpoint: the cache %s cannot be written: %s', self._cache, error)
      with contextlib.suppress(OSError):
        temporary.unlink()


def _full_response(completion, read):
  """The JSON that an Endpoint with `whole` returns for a chat completion.

  Args:
    completion: parsed body of the response.
    read: function from a field that holds a string or null to a string.

  Raises:
    TypeError, LookupError, AttributeError: it is no chat completion.
  """
  choice, usage = completion['choices'][0], completion.get('usage')
  message = choice['message']
  text, finish_reason = read(message['content']), read(choice.get('finish_reason')) or 'stop'
  thinking = read(message.get('reasoning_content')) or read(message.get('reasoning'))
  if thinking:
    text = f'{templates.THINK}{thinking}{templates.THINK_END}{text}'
  tokens = usage.get('completion_tokens') if isinstance(usage, dict) else None
  return json.dumps(
    {
      'response': text,
      'stop': 'eos' if finish_reason == 'stop' else finish_reason,
      'tokens': tokens if _is_count(tokens) else None,
    }
  )


def _is_count(value):
  return type(value) is int and 0 <= value < 1 << 31


def _is_full_response(value):
  """Whether a cache entry, perhaps of an older version, has the format that `_full_response` returns."""
  return (
    isinstance(value, dict)
    and all(isinstance(value.get(key), str) for key in ('response', 'stop'))
    and (value['tokens'] is None or _is_count(value['tokens']))
  )


def _hang_up(sockets):
  for connection in list(sockets):
    with contextlib.suppress(OSError):  # it may be closed already
      socket.socket.shutdown(connection, socket.SHUT_RDWR)  # an SSLSocket's own shutdown would drop its TLS state


def _digest(key, data):
  return hashlib.sha256(key.encode() + data).hexdigest().encode()


def _completions_url(url, httpx):
  """The URL to post to. The message about a user, query or fragment does not show it, as it may contain a key."""
  try:
    parsed = httpx.URL(url)
  except (httpx.InvalidURL, TypeError) as error:
    raise ConfigError(f'url is invalid: {error}.') from None
  require(
    not parsed.userinfo and not parsed.query and not parsed.fragment,
    'url contains a user, a query or a fragment; remove it, and set api_key_env to the variable that holds the key.',
  )
  require(
    parsed.scheme in ('http', 'https') and parsed.host, f'url is {url!r}; it must begin with https:// or http://.'
  )
  return url.rstrip('/').removesuffix('/chat/completions') + '/chat/completions'


def _retry_after(value):
  """The seconds to wait by a Retry-After header, which is a number or a date; 0 if it is neither."""
  try:
    seconds = float(value)
  except ValueError:
    try:
      seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
      return 0.0
  return max(seconds, 0.0) if math.isfinite(seconds) else 0.0
