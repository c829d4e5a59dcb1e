"""The judge's endpoint: retries what may pass, reports what does not, and sends no request twice."""

import email.utils
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from r1jax.config import ConfigError
from r1jax.rewards.neural import endpoint
from r1jax.rewards.neural.endpoint import Endpoint, EndpointError
from tests.rewards.chats import KEY, chat, content, echo, files

pytest.importorskip('httpx')
WRITER = """
import sys
from r1jax.rewards.neural import endpoint
keeper = endpoint.Endpoint('http://127.0.0.1:1/v1', 'm', cache=sys.argv[1])
print('ready', flush=True)
for round in range(100_000):
  for n in range(20):
    keeper._keep(f'{n:064x}', f'{n} ' * 50_000)
"""


def drip(handler):
  """A response of which a byte arrives now and then, and which never ends."""
  handler.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n')
  for _ in range(200):
    try:
      handler.wfile.write(b' ')
      time.sleep(0.05)
    except OSError:
      return


def cut(handler):
  """Half of a response."""
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


@pytest.mark.parametrize(
  'trouble',
  [(429, '{}'), (500, 'oops'), (502, ''), (503, '{}'), (529, '{}'), (408, ''), None, cut],
  ids=lambda trouble: getattr(trouble, '__name__', str(trouble)),
)
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
  with pytest.raises(EndpointError, match=r'in 3 \w+; .*HTTP 503, the model is loading$'):
    Endpoint(server.url, 'm', retries=2)([chat('a')])
  assert len(server.bodies) == 3


def test_nobody_there(server):
  server.close()
  with pytest.raises(EndpointError, match=r'in 2 \w+; .*ConnectError'):
    Endpoint(server.url, 'm', retries=1)([chat('a')])


@pytest.mark.parametrize(
  ('wait', 'least'),
  [(lambda: '0.6', 0.6), (lambda: '1', 1.0), (lambda: email.utils.formatdate(time.time() + 2, usegmt=True), 1.0)],
)
def test_retry_after_is_honoured(server, monkeypatch, wait, least):
  waits = []

  class Event(threading.Event):  # what the client waits with; threads and timers wait for long
    def wait(self, timeout=None):
      if timeout is None or timeout > 5:
        return super().wait(timeout)
      waits.append(timeout)
      return super().wait(0)

  server.reply = lambda body, number: (429, '{}', {'Retry-After': wait()}) if number == 0 else 'at last'
  ask = Endpoint(server.url, 'm')
  monkeypatch.setattr(endpoint.threading, 'Event', Event)
  assert ask([chat('a')]) == ['at last']
  assert len(waits) == 1 and least <= waits[0] < least + 3


@pytest.mark.parametrize('value', ['', 'soon', 'nan', 'inf', '-5', '1e999', 'Mon, 99 Foo 2020', '9' * 5000])
def test_other_retry_after_says_nothing(value):
  assert endpoint._retry_after(value) == 0


def test_waiting_past_the_deadline_is_refused_at_once(server):
  server.reply = lambda body, number: (429, '{}', {'Retry-After': '100'})
  with pytest.raises(EndpointError, match='deadline of 5 s; .* 100 s; .*HTTP 429'):
    Endpoint(server.url, 'm', deadline=5.0)([chat('a')])


@pytest.mark.parametrize('never', [drip, lambda handler: time.sleep(10)], ids=['drips', 'silent'])
def test_an_answer_that_never_ends_does(server, never):
  server.reply = lambda body, number: never
  with pytest.raises(EndpointError, match='deadline of 0.5 s'):
    Endpoint(server.url, 'm', deadline=0.5)([chat('a')])


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
  server.reply = lambda body, number: f'{content(body)} 汉字 \ud800 {number}'
  first = Endpoint(server.url, 'm', cache=tmp_path)([chat('a'), chat('b')])
  assert Endpoint(server.url, 'm', cache=tmp_path)([chat('b'), chat('a')]) == first[::-1] and len(server.bodies) == 2
  for options in ({'temperature': 0.5}, {'max_tokens': 3}, {'extra': {'x': 1}}):  # a different request
    Endpoint(server.url, 'm', cache=tmp_path, **options)([chat('a')])
  Endpoint(server.url, 'another', cache=tmp_path)([chat('a')])
  Endpoint(server.url + '/other', 'm', cache=tmp_path)([chat('a')])
  assert len(server.bodies) == 7


@pytest.mark.parametrize(
  'damage',
  [
    lambda data: b'',
    lambda data: data[:-1],
    lambda data: data[:40],
    lambda data: data + b'x',
    lambda data: data.replace(b'said', b'SAID'),
    lambda data: b'\0' * len(data),
  ],
)
def test_a_damaged_entry_is_asked_for_again(server, tmp_path, damage):
  server.reply = echo
  ask = Endpoint(server.url, 'm', cache=tmp_path)
  ask([chat('a')])
  (file,) = files(tmp_path)
  original = file.read_bytes()
  file.write_bytes(damage(original))
  assert ask([chat('a')]) == ['you said a'] and len(server.bodies) == 2
  assert file.read_bytes() == original and files(tmp_path) == [file]


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
    writers = [
      subprocess.Popen(
        [sys.executable, '-c', WRITER, tmp_path],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {'PYTHONPATH': os.pathsep.join(p or '.' for p in sys.path)},
      )
      for _ in range(2)
    ]
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
  program = (
    'import os, signal, sys\nfrom r1jax.rewards.neural import endpoint\n'
    'endpoint.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n'
    'endpoint.Endpoint(sys.argv[1], "m", cache=sys.argv[2])([[{"role": "user", "content": "a"}]])'
  )
  server.reply = echo
  done = subprocess.run(
    [sys.executable, '-c', program, server.url, tmp_path],
    env=os.environ | {'PYTHONPATH': os.pathsep.join(p or '.' for p in sys.path)},
  )
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
  messages = []
  for status in (401, 400, 500, 200):  # an endpoint that repeats what it was sent
    server.reply = lambda body, number, status=status: (status, json.dumps(server.headers[-1]['Authorization']))
    with pytest.raises(EndpointError) as error:
      ask([chat('b')])
    messages.append(str(error.value))
  assert all('Bearer ***' in text and '\n' not in text for text in messages)
  logged = [str(record.__dict__) for record in caplog.records]
  assert not any(KEY in text for text in [*messages, *logged, *capfd.readouterr(), repr(vars(ask)['_fields'])])
  assert files(tmp_path) and not any(KEY.encode() in p.read_bytes() for p in files(tmp_path))


@pytest.mark.parametrize(
  ('reply', 'message'),
  [
    ((401, '{"error": {"message": "bad key"}}'), 'HTTP 401, .*bad key.*; check the key .*api_key_env'),
    ((404, '{"error": {"message": "no such model"}}'), "HTTP 404, .*check url, and that it has the model 'm'"),
    ((404, '<html>\n<body>not\x1b[31m here'), r'HTTP 404, <html> <body>not \[31m here; check url'),
    ((301, '', {'Location': 'http://elsewhere'}), 'HTTP 301'),
    ((200, 'not JSON'), "'not JSON'.*no chat completion"),
    ((200, ''), 'no chat completion'),
    ((200, '[]'), 'no chat completion'),
    ((200, '{"choices": []}'), 'no chat completion'),
    ((200, '{"choices": [{"message": {"content": 3}}]}'), 'no chat completion'),
    ((200, '{"choices": [{"message": {"content": []}}]}'), 'no chat completion'),
    ((200, '[' * 100_000), 'no chat completion'),
  ],
  ids=lambda value: str(value)[:40],
)
def test_what_does_not_pass_is_said_in_one_line_at_once(server, reply, message):
  server.reply = lambda body, number: reply
  with pytest.raises(EndpointError, match=message) as error:
    Endpoint(server.url, 'm')([chat('a')])
  assert len(server.bodies) == 1 and '\n' not in str(error.value) and len(str(error.value)) < 500


def test_one_failure_ends_the_call(server):
  barrier = threading.Barrier(2, timeout=3)

  def reply(body, number):
    if content(body) in 'ab':
      return str(barrier.wait() >= 0)
    time.sleep(0.2 if content(body) == '1' else 0.0)
    return (401, '') if content(body) == '1' else (429, '', {'Retry-After': '30'})

  server.reply = reply
  ask = Endpoint(server.url, 'm', concurrency=2)
  with pytest.raises(EndpointError, match='401'):
    ask([chat(str(n)) for n in range(20)])
  assert ask([chat('a'), chat('b')]) == ['True', 'True']  # no thread waits for the 30 s


def test_a_model_that_says_nothing(server, tmp_path):
  server.reply = lambda body, number: (200, '{"choices": [{"message": {"content": null}}]}')
  for _ in range(2):
    assert Endpoint(server.url, 'm', cache=tmp_path)([chat('a')]) == ['']
  assert len(server.bodies) == 1


def test_a_request_that_is_refused_is_none_unless_all_are(server, tmp_path, caplog):
  server.reply = lambda body, number: (400, 'too\nlong') if content(body) == 'b' else 'ok'
  ask = Endpoint(server.url, 'm', cache=tmp_path)
  assert ask([chat('a'), chat('b'), chat('c')]) == ['ok', None, 'ok']
  assert '1 of 3 requests were refused' in caplog.text
  with pytest.raises(EndpointError, match='HTTP 400, too long'):
    ask([chat('b')])


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'url': 'api.example.com/v1'}, 'must begin with https://'),
    ({'url': 'ftp://a/v1'}, 'must begin with https://'),
    ({'url': f'https://user:{KEY}@a/v1'}, 'url contains a user'),
    ({'url': f'https://a/v1?key={KEY}'}, 'a query'),
    ({'url': 'http://a:b/v1'}, 'url is invalid'),
    ({'model': ''}, 'model is empty'),
    ({'api_key_env': KEY}, 'api_key_env is not the name of an environment variable'),
    ({'api_key_env': 'NOT_SET'}, 'api_key_env is empty or not set'),
    ({'api_key_env': 'ODD_KEY'}, 'api_key_env .*not ASCII'),
    ({'concurrency': 0}, 'concurrency 0'),
    ({'timeout': 0.0}, 'timeout 0.0'),
    ({'timeout': float('inf')}, 'timeout inf'),
    ({'deadline': float('nan')}, 'deadline nan'),
    ({'deadline': 1e300}, r'deadline 1e\+300 s must be'),
    ({'deadline': -1.0}, 'deadline -1.0'),
    ({'retries': -1}, 'retries -1'),
  ],
  ids=str,
)
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
