"""The judge's endpoint when the server sends slowly or too much, lies in its headers or repeats the key."""

import gzip
import json
import logging
import time
import tracemalloc
import zlib

import pytest

from r1jax.rewards.neural.endpoint import Endpoint, EndpointError
from tests.rewards.chats import KEY, chat, echo, files

pytest.importorskip('httpx')


def slowly(*pieces, pause=0.1):
  """A response that arrives in pieces with pauses, the last of them again and again."""

  def write(handler):
    try:
      for n in range(200):
        handler.wfile.write(pieces[min(n, len(pieces) - 1)])
        time.sleep(pause)
    except OSError:
      return

  return write


HEAD = b'HTTP/1.1 200 OK\r\n'


@pytest.mark.parametrize(
  'never',
  [
    slowly(b'HTTP/1.1 2', b'0'),
    slowly(HEAD, b'X-A: b\r\n'),
    slowly(HEAD + b'X-A: ', b'b'),
    slowly(HEAD + b'Transfer-Encoding: chunked\r\n\r\n', b'0'),
    slowly(HEAD + b'Transfer-Encoding: chunked\r\n\r\n', b'1\r\n \r\n'),
    slowly(HEAD + b'Transfer-Encoding: chunked\r\n\r\n0\r\n', b'X-A: b\r\n'),
    slowly(b'HTTP/1.1 100 Continue\r\n\r\n'),
    slowly(b'HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n'),
    slowly(b'HTTP/1.1 100 Continue\r\n\r\n' * 1000, pause=0.0),
    slowly(HEAD + b'\r\n', b' '),
    slowly(b'HTTP/1.1 503 No\r\n', b'X-A: b\r\n'),
  ],
  ids=[
    'status',
    'headers',
    'header',
    'chunk head',
    'chunks',
    'trailers',
    'continue',
    'hints',
    'flood',
    'no length',
    'refusal',
  ],
)
def test_the_deadline_holds_whatever_part_drips(server, never):
  server.reply = lambda body, number: never
  with pytest.raises(EndpointError, match='deadline of 0.6 s'):
    Endpoint(server.url, 'm', timeout=0.4, deadline=0.6)([chat('a')])
  server.reply = echo
  assert Endpoint(server.url, 'm')([chat('a')]) == ['you said a']


def test_an_answer_that_takes_its_time_is_one(server):
  data = b'{"choices": [{"message": {"content": "slow"}}]}'
  pieces = [HEAD, b'Content-Length: %d\r\n\r\n' % len(data), data[:9], data[9:]]
  server.reply = lambda body, number: (
    lambda handler: [time.sleep(0.1) or handler.wfile.write(piece) for piece in pieces]
  )
  assert Endpoint(server.url, 'm', timeout=0.3, deadline=30.0)([chat('a')]) == ['slow']


def packed(*codings, data=b'{"choices": [{"message": {"content": "small"}}]}', name=None):
  """A function that writes `data` in these content encodings, in this order, under their names or `name`."""
  for coding in codings:
    data = {'gzip': gzip.compress, 'deflate': zlib.compress}[coding](data)
  head = HEAD + f'Content-Encoding: {name or ", ".join(codings)}\r\nContent-Length: {len(data)}\r\n\r\n'.encode()
  return lambda handler: handler.wfile.write(head + data)


@pytest.mark.parametrize('codings', [(), ('gzip',), ('deflate',), ('gzip', 'gzip')])
def test_an_answer_may_come_packed(server, codings):
  server.reply = lambda body, number: packed(*codings, name=None if codings else 'identity')
  assert Endpoint(server.url, 'm')([chat('a')]) == ['small']
  assert server.headers[0]['Accept-Encoding'] == 'identity'


@pytest.mark.parametrize('codings', [('gzip',), ('deflate',), ('gzip', 'gzip'), ('deflate', 'gzip')])
def test_a_small_answer_that_unpacks_to_a_large_one_is_refused(server, codings):
  bomb = packed(*codings, data=bytes(64 << 20))
  server.reply = lambda body, number: bomb
  tracemalloc.start()
  try:
    with pytest.raises(EndpointError, match='over 16777216 bytes'):
      Endpoint(server.url, 'm')([chat('a')])
    assert tracemalloc.get_traced_memory()[1] < 60 << 20
  finally:
    tracemalloc.stop()


@pytest.mark.parametrize(
  ('reply', 'message'),
  [
    (packed(data=b'{}', name='br'), "encoding 'br'"),
    (packed('gzip', name='gzip, zstd'), "'gzip, zstd'"),
    (packed(*['gzip'] * 3), "'gzip, gzip, gzip'"),
    (packed(data=b'not gzip', name='gzip'), 'corrupt compressed data'),
  ],
)
def test_codings_that_nobody_asked_for_are_refused(server, reply, message):
  server.reply = lambda body, number: reply
  with pytest.raises(EndpointError, match=message) as error:
    Endpoint(server.url, 'm')([chat('a')])
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('usage', 'tokens'),
  [
    ('{"completion_tokens": 7}', 7),
    ('{"completion_tokens": 0}', 0),
    ('{}', None),
    ('null', None),
    ('"many"', None),
    *(
      (f'{{"completion_tokens": {value}}}', None)
      for value in ('null', 'NaN', 'Infinity', '-5', '"7"', 'true', '1.5', '[7]', '1e400', '9' * 30)
    ),
  ],
)
def test_tokens_are_a_count_or_nothing(server, tmp_path, usage, tokens):
  server.reply = lambda body, number: (200, f'{{"choices": [{{"message": {{"content": "a"}}}}], "usage": {usage}}}')
  for _ in range(2):  # the second from the cache
    (text,) = Endpoint(server.url, 'm', cache=tmp_path, whole=True)([chat('a')])
    assert json.loads(text) == {'response': 'a', 'stop': 'eos', 'tokens': tokens}
  assert len(server.bodies) == 1


@pytest.mark.parametrize(
  'choice',
  [
    {'finish_reason': ['stop']},
    {'finish_reason': 3},
    {'message': {'content': 'a', 'reasoning': {'b': 1}}},
    {'message': {'content': 'a', 'reasoning_content': 7}},
    {'message': {'content': ['a']}},
    {'message': None},
  ],
)
def test_what_is_no_answer_is_not_kept(server, tmp_path, choice):
  good = {'message': {'content': 'a'}, 'finish_reason': 'length'}
  server.reply = lambda body, number: (200, json.dumps({'choices': [good | choice]}))
  with pytest.raises(EndpointError, match='no chat completion'):
    Endpoint(server.url, 'm', cache=tmp_path, whole=True)([chat('a')])
  assert files(tmp_path) == []
  server.reply = lambda body, number: (200, json.dumps({'choices': [good]}))
  (text,) = Endpoint(server.url, 'm', cache=tmp_path, whole=True)([chat('a')])
  assert json.loads(text) == {'response': 'a', 'stop': 'length', 'tokens': None}


@pytest.mark.parametrize(
  'kept',
  [
    '{"response": "a", "stop": "eos", "tokens": -5}',
    '{"response": "a"}',
    '[]',
    'a',
    '1',
    '{"response": "a", "stop": "eos", "tokens": NaN}',
    '[' * 100_000,
  ],
)
def test_an_entry_that_was_kept_unchecked_is_asked_for_again(server, tmp_path, kept):
  server.reply = echo
  ask = Endpoint(server.url, 'm', cache=tmp_path, whole=True)
  first = ask([chat('a')])
  (file,) = files(tmp_path)
  ask._keep(file.name, kept)
  assert ask([chat('a')]) == first and len(server.bodies) == 2


@pytest.mark.parametrize(
  'broken',
  [
    lambda k: k,
    lambda k: ' '.join(k),
    lambda k: k[:6] + '\n' + k[6:],
    lambda k: k[:3] + '\u200b\x00\t' + k[3:],
    lambda k: '\xa0'.join([k[:5], k[5:]]),
    lambda k: k.replace('/', r'\/'),
    lambda k: k[:4] + r'\n' + k[4:],
    lambda k: ''.join(f'\\u{ord(c):04X}' for c in k),
    lambda k: k.replace('/', '%2F'),
    lambda k: k.replace('-', '&#45;'),
    lambda k: ' ' * 9990 + k,
    lambda k: ' ' * 9990 + ' '.join(k),
  ],
)
def test_a_key_is_masked_however_it_is_broken(server, tmp_path, monkeypatch, broken):
  key = 'sk-a1/b2C3d4e5f6'
  monkeypatch.setenv('JUDGE_KEY', key)
  shown = broken(key)
  bare = lambda text: ''.join(c for c in text if c.isalnum())
  for status, text in ((401, shown), (400, shown), (200, shown)):
    server.reply = lambda body, number, status=status, text=text: (status, text)
    with pytest.raises(EndpointError) as error:
      Endpoint(server.url, 'm', api_key_env='JUDGE_KEY', cache=tmp_path)([chat('b')])
    assert '***' in str(error.value) and bare(key)[-6:] not in bare(str(error.value))
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('whole', [False, True])
def test_a_key_that_an_answer_repeats_is_masked(server, tmp_path, monkeypatch, caplog, whole):
  monkeypatch.setenv('JUDGE_KEY', KEY)
  caplog.set_level(logging.DEBUG)
  broken = KEY[:7] + '\n' + KEY[7:]
  message = {'content': f'your key is \\{KEY}, or {broken}', 'reasoning_content': f'{KEY}?'}
  server.reply = lambda body, number: (
    200,
    json.dumps({'choices': [{'message': message, 'finish_reason': KEY}]}),
    {'X-Echo': KEY},
  )
  (response,) = Endpoint(server.url, 'm', api_key_env='JUDGE_KEY', cache=tmp_path, whole=whole)([chat('a')])
  assert response.count('***') == (4 if whole else 2)
  cached = [p.read_text() for p in files(tmp_path)]
  assert cached and not any(KEY[7:] in text for text in [response, *cached, *(str(r.__dict__) for r in caplog.records)])
  assert not whole or json.loads(response)['response'].endswith('your key is ***, or ***')


def test_a_placeholder_in_the_key_s_place_is_no_secret(server, monkeypatch):
  monkeypatch.setenv('JUDGE_KEY', 'EMPTY')
  server.reply = lambda body, number: 'The set is EMPTY.'
  assert Endpoint(server.url, 'm', api_key_env='JUDGE_KEY')([chat('a')]) == ['The set is EMPTY.']
