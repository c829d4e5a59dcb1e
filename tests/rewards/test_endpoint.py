"""The judge's endpoint: patient with what passes, plain about what does not, and no word is paid for twice."""
import email.utils
import gzip
import json
import logging
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib

import pytest

from r1jax.config import ConfigError
from r1jax.rewards.neural import endpoint
from r1jax.rewards.neural.endpoint import Endpoint, EndpointError

pytest.importorskip('httpx')
KEY = 'sk-a1b2c3d4e5f6'
WRITER = '''
import sys
from r1jax.rewards.neural import endpoint
keeper = endpoint.Endpoint('http://127.0.0.1:1/v1', 'm', cache=sys.argv[1])
print('ready', flush=True)
for round in range(100_000):
  for n in range(20):
    keeper._keep(f'{n:064x}', f'{n} ' * 50_000)
'''


def chat(text):
  return [{'role': 'user', 'content': text}]


def said(body):
  return body['messages'][0]['content']


def echo(body, number):
  return 'you said ' + said(body)


def files(path):
  return sorted(p for p in pathlib.Path(path).rglob('*') if p.is_file())


def drip(handler):
  """An answer that comes at a byte now and then, and never ends."""
  handler.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n')
  for _ in range(200):
    try:
      handler.wfile.write(b' ')
      time.sleep(0.05)
    except OSError:
      return


def cut(handler):
  """Half of an answer."""
  handler.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"choices": [')


def test_texts_come_in_the_order_of_their_chats(server):
  def reply(body, number):
    time.sleep(0.03 if number % 3 else 0.0)
    return echo(body, number)
  server.reply = reply
  texts = [f'text {n}' for n in range(20)]
  assert Endpoint(server.url, 'm')([chat(t) for t in texts]) == [f'you said {t}' for t in texts]
  assert Endpoint(server.url, 'm')([]) == []
  assert set(server.paths) == {'/v1/chat/completions'}


def test_the_request_is_what_was_asked_for(server):
  Endpoint(server.url + '/chat/completions', 'm', max_tokens=7, extra={'top_p': 0.5})([chat('a')], [3])
  assert server.bodies == [{'model': 'm', 'messages': chat('a'), 'temperature': 0.0, 'max_tokens': 7, 'top_p': 0.5}]
  Endpoint(server.url, 'm', temperature=0.5, extra={'max_tokens': None})([chat('a')], [3])
  assert server.bodies[1] == {'model': 'm', 'messages': chat('a'), 'temperature': 0.5, 'seed': 3}


def test_equal_requests_are_sent_once(server):
  server.reply = lambda body, number: f'answer {number}'
  assert len(set(Endpoint(server.url, 'm')([chat('a')] * 10))) == 1 and len(server.bodies) == 1
  drawn = Endpoint(server.url, 'm', temperature=1.0)([chat('a')] * 4, [0, 1, 0, 1])
  assert len(server.bodies) == 3 and drawn[:2] == drawn[2:] and drawn[0] != drawn[1]


@pytest.mark.parametrize('trouble', [
    (429, '{}'), (500, 'oops'), (502, ''), (503, '{}'), (529, '{}'), (408, ''), None, cut],
    ids=lambda trouble: getattr(trouble, '__name__', str(trouble)))
def test_what_passes_is_tried_again(server, trouble):
  server.reply = lambda body, number: trouble if number < 3 else 'at last'
  assert Endpoint(server.url, 'm')([chat('a')]) == ['at last']
  assert len(server.bodies) == 4


def test_a_slow_answer_is_tried_again(server):
  def reply(body, number):
    time.sleep(1.0 if number == 0 else 0.0)
    return 'at last'
  server.reply = reply
  assert Endpoint(server.url, 'm', timeout=0.3)([chat('a')]) == ['at last']


def test_tries_end(server):
  server.reply = lambda body, number: (503, 'the model is\nloading')
  with pytest.raises(EndpointError, match='did not answer in 3 tries; the last: HTTP 503, the model is loading$'):
    Endpoint(server.url, 'm', retries=2)([chat('a')])
  assert len(server.bodies) == 3


def test_nobody_there(server):
  server.close()
  with pytest.raises(EndpointError, match='did not answer in 2 tries; the last: ConnectError'):
    Endpoint(server.url, 'm', retries=1)([chat('a')])


@pytest.mark.parametrize('wait, least', [
    (lambda: '0.6', 0.6), (lambda: '1', 1.0), (lambda: email.utils.formatdate(time.time() + 2, usegmt=True), 1.0)])
def test_retry_after_is_honoured(server, wait, least):
  times = []

  def reply(body, number):
    times.append(time.monotonic())
    return (429, '{}', {'Retry-After': wait()}) if number == 0 else 'at last'
  server.reply = reply
  assert Endpoint(server.url, 'm')([chat('a')]) == ['at last']
  assert least <= times[1] - times[0] < least + 3


@pytest.mark.parametrize('value', ['', 'soon', 'nan', 'inf', '-5', '1e999', 'Mon, 99 Foo 2020', '9' * 5000])
def test_other_retry_after_says_nothing(value):
  assert endpoint._seconds(value) == 0


def test_waiting_past_the_deadline_is_refused_at_once(server):
  server.reply = lambda body, number: (429, '{}', {'Retry-After': '100'})
  began = time.monotonic()
  with pytest.raises(EndpointError, match='by the deadline of 5 s; another try is due in 100 s; the last: HTTP 429'):
    Endpoint(server.url, 'm', deadline=5.0)([chat('a')])
  assert time.monotonic() - began < 3


@pytest.mark.parametrize('never', [drip, lambda handler: time.sleep(10)], ids=['drips', 'silent'])
def test_an_answer_that_never_ends_does(server, never):
  server.reply = lambda body, number: never
  began = time.monotonic()
  with pytest.raises(EndpointError, match='did not answer by the deadline of 0.5 s'):
    Endpoint(server.url, 'm', deadline=0.5)([chat('a')])
  assert time.monotonic() - began < 3


def test_an_answer_beyond_all_bounds_is_refused(server, monkeypatch):
  monkeypatch.setattr(endpoint, '_LARGEST', 1000)
  server.reply = lambda body, number: 'x' * 2000
  with pytest.raises(EndpointError, match='over 1000 bytes'):
    Endpoint(server.url, 'm')([chat('a')])


def test_the_deadline_holds_for_those_that_wait_their_turn(server):
  def reply(body, number):
    time.sleep(0.3)
    return 'ok'
  server.reply = reply
  with pytest.raises(EndpointError, match='deadline'):
    Endpoint(server.url, 'm', concurrency=1, deadline=0.7)([chat(str(n)) for n in range(20)])
  assert len(server.bodies) < 5


@pytest.mark.parametrize('calls', [1, 3])
def test_concurrency_is_kept_by_all_calls_together(server, calls):
  def reply(body, number):
    time.sleep(0.05)
    return 'ok'
  server.reply = reply
  ask = Endpoint(server.url, 'm', concurrency=3)
  threads = [threading.Thread(target=ask, args=([chat(f'{n} {m}') for m in range(8)],)) for n in range(calls)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert server.most == 3 and len(server.bodies) == 8 * calls


def test_the_cache_outlives_the_process(server, tmp_path):
  server.reply = lambda body, number: f'{said(body)} 汉字 \ud800 {number}'
  first = Endpoint(server.url, 'm', cache=tmp_path)([chat('a'), chat('b')])
  assert Endpoint(server.url, 'm', cache=tmp_path)([chat('b'), chat('a')]) == first[::-1] and len(server.bodies) == 2
  for options in ({'temperature': 0.5}, {'max_tokens': 3}, {'extra': {'x': 1}}):      # is another request
    Endpoint(server.url, 'm', cache=tmp_path, **options)([chat('a')])
  Endpoint(server.url, 'another', cache=tmp_path)([chat('a')])
  Endpoint(server.url + '/other', 'm', cache=tmp_path)([chat('a')])
  assert len(server.bodies) == 7


@pytest.mark.parametrize('damage', [
    lambda data: b'', lambda data: data[:-1], lambda data: data[:40], lambda data: data + b'x',
    lambda data: data.replace(b'said', b'SAID'), lambda data: b'\0' * len(data)])
def test_a_damaged_entry_is_asked_for_again(server, tmp_path, damage):
  server.reply = echo
  ask = Endpoint(server.url, 'm', cache=tmp_path)
  ask([chat('a')])
  file, = files(tmp_path)
  whole = file.read_bytes()
  file.write_bytes(damage(whole))
  assert ask([chat('a')]) == ['you said a'] and len(server.bodies) == 2
  assert file.read_bytes() == whole and files(tmp_path) == [file]


def test_an_entry_of_another_request_is_none(server, tmp_path):
  server.reply = echo
  ask = Endpoint(server.url, 'm', cache=tmp_path)
  ask([chat('a'), chat('b')])
  a, b = files(tmp_path)
  b.write_bytes(a.read_bytes())
  assert ask([chat('a'), chat('b')]) == ['you said a', 'you said b'] and len(server.bodies) == 3


def test_a_cache_that_cannot_be_written_costs_no_answer(server, tmp_path, caplog):
  server.reply = echo
  (tmp_path / 'file').touch()
  assert Endpoint(server.url, 'm', cache=tmp_path / 'file')([chat('a')]) == ['you said a']
  assert 'cannot be written' in caplog.text


def test_writers_killed_at_any_moment_leave_no_half_entry(tmp_path):
  for n in range(2):
    writers = [subprocess.Popen([sys.executable, '-c', WRITER, tmp_path], stdout=subprocess.PIPE, text=True,
                                env=os.environ | {'PYTHONPATH': os.pathsep.join(p or '.' for p in sys.path)})
               for _ in range(2)]
    for writer in writers:
      assert writer.stdout.readline() == 'ready\n'
    time.sleep(0.05 + 0.03 * n)
    for writer in writers:
      writer.send_signal(signal.SIGKILL)
      writer.communicate()
    reader = Endpoint('http://127.0.0.1:1/v1', 'm', cache=tmp_path)
    named = [p for p in files(tmp_path) if len(p.name) == 64]
    assert named and [p for p in named if reader._look_up(p.name) != f'{int(p.name, 16)} ' * 50_000] == []


def test_killed_before_an_entry_has_its_name(server, tmp_path):
  program = ('import os, signal, sys\nfrom r1jax.rewards.neural import endpoint\n'
             'endpoint.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n'
             'endpoint.Endpoint(sys.argv[1], "m", cache=sys.argv[2])([[{"role": "user", "content": "a"}]])')
  server.reply = echo
  done = subprocess.run([sys.executable, '-c', program, server.url, tmp_path],
                        env=os.environ | {'PYTHONPATH': os.pathsep.join(p or '.' for p in sys.path)})
  assert done.returncode == -signal.SIGKILL and len(files(tmp_path)) == 1
  assert Endpoint(server.url, 'm', cache=tmp_path)([chat('a')]) == ['you said a'] and len(server.bodies) == 2
  assert Endpoint(server.url, 'm', cache=tmp_path)([chat('a')]) == ['you said a'] and len(server.bodies) == 2


def test_the_key_goes_to_the_endpoint_and_nowhere_else(server, tmp_path, monkeypatch, caplog, capfd):
  monkeypatch.setenv('JUDGE_KEY', KEY + '\n')
  caplog.set_level(logging.DEBUG)
  server.reply = echo
  ask = Endpoint(server.url, 'm', api_key_env='JUDGE_KEY', cache=tmp_path, retries=1)
  ask([chat('a')])
  assert server.headers[0]['Authorization'] == f'Bearer {KEY}'
  said = []
  for status in (401, 400, 500, 200):            # an endpoint that shows what it was sent
    server.reply = lambda body, number, status=status: (status, json.dumps(server.headers[-1]['Authorization']))
    with pytest.raises(EndpointError) as error:
      ask([chat('b')])
    said.append(str(error.value))
  assert all('Bearer ***' in text and '\n' not in text for text in said)
  logged = [str(record.__dict__) for record in caplog.records]
  assert not any(KEY in text for text in [*said, *logged, *capfd.readouterr(), repr(vars(ask)['_fields'])])
  assert files(tmp_path) and not any(KEY.encode() in p.read_bytes() for p in files(tmp_path))


@pytest.mark.parametrize('reply, message', [
    ((401, '{"error": {"message": "bad key"}}'), 'answers HTTP 401, .*bad key.*; check the key in a variable'),
    ((404, '{"error": {"message": "no such model"}}'), "HTTP 404, .*check url, and that it has the model 'm'"),
    ((404, '<html>\n<body>not\x1b[31m here'), r'HTTP 404, <html> <body>not \[31m here; check url'),
    ((301, '', {'Location': 'http://elsewhere'}), 'HTTP 301'),
    ((200, 'not JSON'), "no chat completion in JSON but with 'not JSON'"), ((200, ''), 'no chat completion'),
    ((200, '[]'), 'no chat completion'), ((200, '{"choices": []}'), 'no chat completion'),
    ((200, '{"choices": [{"message": {"content": 3}}]}'), 'no chat completion'),
    ((200, '{"choices": [{"message": {"content": []}}]}'), 'no chat completion'),
    ((200, '[' * 100_000), 'no chat completion'),
], ids=lambda value: str(value)[:40])
def test_what_does_not_pass_is_said_in_one_line_at_once(server, reply, message):
  server.reply = lambda body, number: reply
  with pytest.raises(EndpointError, match=message) as error:
    Endpoint(server.url, 'm')([chat('a')])
  assert len(server.bodies) == 1 and '\n' not in str(error.value) and len(str(error.value)) < 500


def test_one_failure_ends_the_call(server):
  both = threading.Barrier(2, timeout=3)

  def reply(body, number):
    if said(body) in 'ab':
      return str(both.wait() >= 0)
    time.sleep(0.2 if said(body) == '1' else 0.0)
    return (401, '') if said(body) == '1' else (429, '', {'Retry-After': '30'})
  server.reply = reply
  began, ask = time.monotonic(), Endpoint(server.url, 'm', concurrency=2)
  with pytest.raises(EndpointError, match='401'):
    ask([chat(str(n)) for n in range(20)])
  assert ask([chat('a'), chat('b')]) == ['True', 'True']     # no thread waits out the 30 s
  assert time.monotonic() - began < 5


def test_a_model_that_says_nothing(server, tmp_path):
  server.reply = lambda body, number: (200, '{"choices": [{"message": {"content": null}}]}')
  for _ in range(2):
    assert Endpoint(server.url, 'm', cache=tmp_path)([chat('a')]) == ['']
  assert len(server.bodies) == 1


def test_a_request_that_is_refused_is_none_unless_all_are(server, tmp_path, caplog):
  server.reply = lambda body, number: (400, 'too\nlong') if said(body) == 'b' else 'ok'
  ask = Endpoint(server.url, 'm', cache=tmp_path)
  assert ask([chat('a'), chat('b'), chat('c')]) == ['ok', None, 'ok']
  assert '1 of 3 requests were refused' in caplog.text
  with pytest.raises(EndpointError, match='refuses a request: HTTP 400, too long'):
    ask([chat('b')])


@pytest.mark.parametrize('options, message', [
    ({'url': 'api.example.com/v1'}, 'must begin with https://'), ({'url': 'ftp://a/v1'}, 'must begin with https://'),
    ({'url': f'https://user:{KEY}@a/v1'}, 'holds a user'), ({'url': f'https://a/v1?key={KEY}'}, 'a query'),
    ({'url': 'http://a:b/v1'}, 'url is no address'), ({'model': ''}, 'model is empty'),
    ({'api_key_env': KEY}, 'no name of an environment variable'), ({'api_key_env': 'NOT_SET'}, 'empty or not set'),
    ({'api_key_env': 'ODD_KEY'}, 'not ASCII'), ({'concurrency': 0}, 'concurrency 0'), ({'timeout': 0.0}, 'timeout 0.0'),
    ({'deadline': -1.0}, 'deadline -1.0'), ({'retries': -1}, 'retries -1')], ids=str)
def test_settings_that_cannot_work_are_refused(options, message, monkeypatch):
  monkeypatch.setenv('ODD_KEY', 'two words\nX-Header: injected')
  monkeypatch.delenv('NOT_SET', raising=False)
  with pytest.raises(ConfigError, match=message) as error:
    Endpoint(**{'url': 'https://a/v1', 'model': 'm'} | options)
  assert KEY not in str(error.value) and 'injected' not in str(error.value) and '\n' not in str(error.value)


def test_without_httpx_the_extra_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, 'httpx', None)
  with pytest.raises(ConfigError, match=r"pip install 'r1jax\[judge\]'"):
    Endpoint('https://a/v1', 'm')


def slowly(*pieces, pause=0.1):
  """An answer that comes in pieces with pauses, and at last one piece again and again."""
  def write(handler):
    try:
      for n in range(200):
        handler.wfile.write(pieces[min(n, len(pieces) - 1)])
        time.sleep(pause)
    except OSError:
      return
  return write


HEAD = b'HTTP/1.1 200 OK\r\n'


@pytest.mark.parametrize('never', [
    slowly(b'HTTP/1.1 2', b'0'), slowly(HEAD, b'X-A: b\r\n'), slowly(HEAD + b'X-A: ', b'b'),
    slowly(HEAD + b'Transfer-Encoding: chunked\r\n\r\n', b'0'),
    slowly(HEAD + b'Transfer-Encoding: chunked\r\n\r\n', b'1\r\n \r\n'),
    slowly(HEAD + b'Transfer-Encoding: chunked\r\n\r\n0\r\n', b'X-A: b\r\n'),
    slowly(b'HTTP/1.1 100 Continue\r\n\r\n'), slowly(b'HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n'),
    slowly(b'HTTP/1.1 100 Continue\r\n\r\n' * 1000, pause=0.0), slowly(HEAD + b'\r\n', b' '),
    slowly(b'HTTP/1.1 503 No\r\n', b'X-A: b\r\n')],
    ids=['status', 'headers', 'header', 'chunk head', 'chunks', 'trailers', 'continue', 'hints', 'flood', 'no length',
         'refusal'])
def test_the_deadline_holds_whatever_part_drips(server, never):
  server.reply = lambda body, number: never
  began = time.monotonic()
  with pytest.raises(EndpointError, match='did not answer by the deadline of 0.6 s'):
    Endpoint(server.url, 'm', timeout=0.4, deadline=0.6)([chat('a')])
  assert time.monotonic() - began < 3
  server.reply = echo
  assert Endpoint(server.url, 'm')([chat('a')]) == ['you said a']


def test_an_answer_that_takes_its_time_is_one(server):
  data = b'{"choices": [{"message": {"content": "slow"}}]}'
  whole = [HEAD, b'Content-Length: %d\r\n\r\n' % len(data), data[:9], data[9:]]
  server.reply = lambda body, number: lambda handler: [time.sleep(0.1) or handler.wfile.write(part) for part in whole]
  assert Endpoint(server.url, 'm', timeout=0.3, deadline=30.0)([chat('a')]) == ['slow']


def packed(*codings, data=b'{"choices": [{"message": {"content": "small"}}]}', name=None):
  """A function that writes `data` in the codings, in this order, under their names or `name`."""
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


@pytest.mark.parametrize('reply, message', [
    (packed(data=b'{}', name='br'), "in the coding 'br', which was not asked for"),
    (packed('gzip', name='gzip, zstd'), "'gzip, zstd'"), (packed(*['gzip'] * 3), "'gzip, gzip, gzip'"),
    (packed(data=b'not gzip', name='gzip'), 'damaged compressed data')])
def test_codings_that_nobody_asked_for_are_refused(server, reply, message):
  server.reply = lambda body, number: reply
  with pytest.raises(EndpointError, match=message) as error:
    Endpoint(server.url, 'm')([chat('a')])
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('usage, tokens', [
    ('{"completion_tokens": 7}', 7), ('{"completion_tokens": 0}', 0), ('{}', None), ('null', None), ('"many"', None),
    *((f'{{"completion_tokens": {value}}}', None)
      for value in ('null', 'NaN', 'Infinity', '-5', '"7"', 'true', '1.5', '[7]', '1e400', '9' * 30))])
def test_tokens_are_a_count_or_nothing(server, tmp_path, usage, tokens):
  server.reply = lambda body, number: (200, f'{{"choices": [{{"message": {{"content": "a"}}}}], "usage": {usage}}}')
  for _ in range(2):                                       # the second from the cache
    said, = Endpoint(server.url, 'm', cache=tmp_path, whole=True)([chat('a')])
    assert json.loads(said) == {'response': 'a', 'stop': 'eos', 'tokens': tokens}
  assert len(server.bodies) == 1


@pytest.mark.parametrize('choice', [
    {'finish_reason': ['stop']}, {'finish_reason': 3}, {'message': {'content': 'a', 'reasoning': {'b': 1}}},
    {'message': {'content': 'a', 'reasoning_content': 7}}, {'message': {'content': ['a']}}, {'message': None}])
def test_what_is_no_answer_is_not_kept(server, tmp_path, choice):
  good = {'message': {'content': 'a'}, 'finish_reason': 'length'}
  server.reply = lambda body, number: (200, json.dumps({'choices': [good | choice]}))
  with pytest.raises(EndpointError, match='no chat completion'):
    Endpoint(server.url, 'm', cache=tmp_path, whole=True)([chat('a')])
  assert files(tmp_path) == []
  server.reply = lambda body, number: (200, json.dumps({'choices': [good]}))
  said, = Endpoint(server.url, 'm', cache=tmp_path, whole=True)([chat('a')])
  assert json.loads(said) == {'response': 'a', 'stop': 'length', 'tokens': None}


@pytest.mark.parametrize('kept', ['{"response": "a", "stop": "eos", "tokens": -5}', '{"response": "a"}', '[]', 'a', '1',
                                  '{"response": "a", "stop": "eos", "tokens": NaN}', '[' * 100_000])
def test_an_entry_that_was_kept_unchecked_is_asked_for_again(server, tmp_path, kept):
  server.reply = echo
  ask = Endpoint(server.url, 'm', cache=tmp_path, whole=True)
  first = ask([chat('a')])
  file, = files(tmp_path)
  ask._keep(file.name, kept)
  assert ask([chat('a')]) == first and len(server.bodies) == 2


@pytest.mark.parametrize('broken', [
    lambda k: k, lambda k: ' '.join(k), lambda k: k[:6] + '\n' + k[6:], lambda k: k[:3] + '\u200b\x00\t' + k[3:],
    lambda k: '\xa0'.join([k[:5], k[5:]]), lambda k: k.replace('/', r'\/'), lambda k: k[:4] + r'\n' + k[4:],
    lambda k: ''.join(f'\\u{ord(c):04X}' for c in k), lambda k: k.replace('/', '%2F'),
    lambda k: k.replace('-', '&#45;'), lambda k: ' ' * 9990 + k, lambda k: ' ' * 9990 + ' '.join(k)])
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
  server.reply = lambda body, number: (200, json.dumps({'choices': [{'message': message, 'finish_reason': KEY}]}),
                                       {'X-Echo': KEY})
  said, = Endpoint(server.url, 'm', api_key_env='JUDGE_KEY', cache=tmp_path, whole=whole)([chat('a')])
  assert said.count('***') == (4 if whole else 2)
  kept = [p.read_text() for p in files(tmp_path)]
  assert kept and not any(KEY[7:] in text for text in [said, *kept, *(str(r.__dict__) for r in caplog.records)])
  assert not whole or json.loads(said)['response'].endswith('your key is ***, or ***')


def test_a_placeholder_in_the_key_s_place_is_no_secret(server, monkeypatch):
  monkeypatch.setenv('JUDGE_KEY', 'EMPTY')
  server.reply = lambda body, number: 'The set is EMPTY.'
  assert Endpoint(server.url, 'm', api_key_env='JUDGE_KEY')([chat('a')]) == ['The set is EMPTY.']
