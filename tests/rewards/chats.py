"""Chats that tests of the endpoint send, and what they look at after."""

import pathlib

KEY = 'sk-a1b2c3d4e5f6'


def chat(text):
  return [{'role': 'user', 'content': text}]


def said(body):
  return body['messages'][0]['content']


def echo(body, number):
  return 'you said ' + said(body)


def files(path):
  return sorted(p for p in pathlib.Path(path).rglob('*') if p.is_file())
