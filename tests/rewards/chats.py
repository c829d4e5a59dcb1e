"""Chats for the tests of the endpoint, and helpers to check them."""

import pathlib

KEY = 'sk-a1b2c3d4e5f6'


def chat(text):
  return [{'role': 'user', 'content': text}]


def content(body):
  return body['messages'][0]['content']


def echo(body, number):
  return 'you said ' + content(body)


def files(path):
  return sorted(p for p in pathlib.Path(path).rglob('*') if p.is_file())
