"""A chat endpoint on this machine, whose behaviour each test sets."""

import http.server
import json
import threading

import pytest


class Server:
  """Answers POSTs by `reply(body, number)`: a text, (status, body[, headers]), None to hang up, or a function.

  A function gets the request handler and writes the response itself.

  Attributes:
    reply: may be set at any time; number is that of the request, from 0.
    bodies, headers, paths: of the requests so far.
    most: largest number of requests in progress at one time.
  """

  def __init__(self):
    self.reply = lambda body, number: 'hello'
    self.bodies, self.headers, self.paths = [], [], []
    self.now = self.most = 0
    self._lock = threading.Lock()
    outer = self

    class Handler(http.server.BaseHTTPRequestHandler):
      protocol_version = 'HTTP/1.1'

      def log_message(self, *_):
        pass

      def do_POST(self):
        outer._serve(self)

    self._http = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    self._http.daemon_threads = True
    self._http.block_on_close = False
    self.url = f'http://127.0.0.1:{self._http.server_port}/v1'
    threading.Thread(target=self._http.serve_forever, kwargs={'poll_interval': 0.01}, daemon=True).start()

  def _serve(self, handler):
    body = json.loads(handler.rfile.read(int(handler.headers['Content-Length'])))
    with self._lock:
      number = len(self.bodies)
      self.bodies.append(body)
      self.headers.append(dict(handler.headers))
      self.paths.append(handler.path)
      self.now += 1
      self.most = max(self.most, self.now)
    try:
      reply = self.reply(body, number)
    finally:
      with self._lock:
        self.now -= 1
    if callable(reply):
      reply(handler)
    if reply is None or callable(reply):
      handler.close_connection = True
      return
    if isinstance(reply, str):
      reply = 200, json.dumps({'choices': [{'message': {'role': 'assistant', 'content': reply}}]})
    status, text, headers = (*reply, {})[:3]
    data = text.encode()
    handler.send_response(status)
    for name, value in {'Content-Length': str(len(data)), **headers}.items():
      handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(data)

  def close(self):
    self._http.shutdown()
    self._http.server_close()


@pytest.fixture
def server(monkeypatch):
  for name in ('http_proxy', 'https_proxy', 'all_proxy'):
    monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv(name.upper(), raising=False)
  monkeypatch.setattr('r1jax.rewards.neural.endpoint._FIRST_WAIT', 0.01)  # seconds before the second attempt
  server = Server()
  yield server
  server.close()
