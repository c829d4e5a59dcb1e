"""Conversations as token ids: forms, the visible part of a response, marks, and truncation."""

import json

import numpy as np
import pytest
from tokenizers import pre_tokenizers

from r1jax import tokenizers
from r1jax.config import ConfigError
from r1jax.data import conversation
from r1jax.data.conversation import Encoder

TEXT = 'User: what is 3 + 4 ? Assistant: 3 + 4 = 7 so 7 .'
TURNS = [{'role': 'system', 'content': 'be brief'}, {'role': 'user', 'content': 'what is 3 + 4 ?'}]


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
  path = tmp_path_factory.mktemp('tokenizer') / 'tokenizer.model'
  tokenizers.train([TEXT] * 4, path, 320)
  return tokenizers.load(path)


@pytest.fixture(scope='module')
def chatting(tmp_path_factory):
  """A tokenizer with DeepSeek-R1's chat template, which opens the thinking, and with `<think>` as one token."""
  path = tmp_path_factory.mktemp('chat')
  spec = {'type': 'BPE', 'vocab': {}, 'merges': []}
  alphabet = pre_tokenizers.ByteLevel.alphabet()
  spec['vocab'] = {c: i for i, c in enumerate(sorted(alphabet))}
  names = ['<｜end▁of▁sentence｜>', '<｜User｜>', '<｜Assistant｜>', '<think>', '</think>', '<｜begin▁of▁sentence｜>']
  added = [
    {
      'id': 256 + i,
      'content': name,
      'special': 'think' not in name,
      'normalized': False,
      'lstrip': False,
      'rstrip': False,
      'single_word': False,
    }
    for i, name in enumerate(names)
  ]
  (path / 'tokenizer.json').write_text(
    json.dumps(
      {
        'version': '1.0',
        'added_tokens': added,
        'model': spec,
        'normalizer': None,
        'post_processor': None,
        'pre_tokenizer': {'type': 'ByteLevel', 'add_prefix_space': False, 'trim_offsets': True, 'use_regex': True},
        'decoder': {'type': 'ByteLevel', 'add_prefix_space': False, 'trim_offsets': True, 'use_regex': True},
      }
    )
  )
  (path / 'tokenizer_config.json').write_text(
    json.dumps({'eos_token': names[0], 'bos_token': names[5], 'add_bos_token': True})
  )
  return tokenizers.load(path, 'r1')


@pytest.mark.parametrize(
  ('text', 'want'),
  [
    ('plain answer', 'plain answer'),
    ('<think> a </think>\n\nshown ', 'shown'),
    ('a </think> b </think> c', 'c'),
    ('<think>a</think>x</think>y', 'y'),
    ('<think>a</think>b<think>c', None),
    ('<think> never ends', None),
    ('<think> a </think>', ''),
  ],
)
def test_the_summary_is_what_follows_the_thinking(text, want):
  assert conversation.visible_text(text, 'summary') == want
  assert conversation.visible_text(text, 'whole') == text.strip()


@pytest.mark.parametrize(
  ('form', 'prompt'),
  [
    ('dialogue', 'System: be brief\nUser: what is 3 + 4 ?\nAssistant:\n'),
    ('bare', 'be brief\nwhat is 3 + 4 ?\n'),
    ('auto', 'System: be brief\nUser: what is 3 + 4 ?\nAssistant:\n'),
  ],
)
def test_forms_without_a_template(tokenizer, form, prompt):
  row = Encoder(tokenizer, form, 512).encode_response(TURNS, '7 .')
  assert row.ids.tolist() == [*tokenizer.encode(prompt), *tokenizer.encode('7 .'), tokenizer.eos[0]]
  assert row.marks.tolist() == [len(row.ids) - 1] and row.cut == 0 and row.start == len(tokenizer.encode(prompt))


def test_the_form_chat_needs_a_chat_template(tokenizer):
  with pytest.raises(ConfigError, match='no chat template'):
    Encoder(tokenizer, 'chat', 512)


def test_a_template_that_opens_the_thinking_leaves_it_to_the_response(chatting):
  encoder = Encoder(chatting, 'auto', 512)
  assert encoder.form == 'chat'
  without, with_thinking = (encoder.encode_response(TURNS, text) for text in ('7', '<think>a</think>7'))
  prompt = chatting.chat(TURNS, generate=False) + [chatting.added['<｜Assistant｜>']]
  assert without.ids.tolist() == [*prompt, *chatting.encode('7'), chatting.eos[0]]
  assert with_thinking.ids[len(prompt)] == chatting.added['<think>']
  assert chatting.added['</think>'] in with_thinking.ids


def test_steps_are_marked_at_their_last_token(tokenizer):
  steps = ['3 + 4 = 7', 'so', '7 .']
  row = Encoder(tokenizer, 'bare', 512, 'line').encode_steps(TURNS, steps)
  assert len(row.marks) == 3
  starts = [row.start, *(row.marks[:-1] + 1)]
  for start, mark, step in zip(starts, row.marks, steps):
    assert tokenizer.decode(row.ids[start : mark + 1]).strip(' ') == step + '\n'
  assert row.marks[-1] == len(row.ids) - 1
  # A step's tokens do not depend on what comes after it.
  fewer = Encoder(tokenizer, 'bare', 512, 'line').encode_steps(TURNS, steps[:2])
  assert fewer.ids.tolist() == row.ids[: len(fewer.ids)].tolist()


def test_a_prompt_over_the_limit_loses_its_start(tokenizer):
  full = Encoder(tokenizer, 'bare', 512).encode_response(TURNS, '7 .')
  cut = Encoder(tokenizer, 'bare', len(full.ids) - 3).encode_response(TURNS, '7 .')
  assert cut.ids.tolist() == full.ids[3:].tolist() and cut.cut == 3


def test_a_response_over_the_limit_loses_its_end_and_the_prompt_keeps_a_quarter(tokenizer):
  text = '3 + 4 = 7 ' * 30
  row = Encoder(tokenizer, 'bare', 32).encode_response(TURNS, text)
  prompt = tokenizer.encode('be brief\nwhat is 3 + 4 ?\n')
  assert len(row.ids) == 32 and row.start == 8 and row.ids[:8].tolist() == prompt[-8:]
  assert row.ids[8:].tolist() == [*tokenizer.encode(text)[:23], tokenizer.eos[0]]
  assert row.cut == len(prompt) - 8 + len(tokenizer.encode(text)) - 23 and row.size == len(tokenizer.encode(text)) + 1
  steps = Encoder(tokenizer, 'bare', 32).encode_steps(TURNS, ['3 + 4 = 7'] * 30)
  assert 0 < len(steps.marks) < 30 and steps.marks[-1] < 32 == len(steps.ids)


def test_truncation_keeps_the_begin_token(chatting):
  row = Encoder(chatting, 'dialogue', 16).encode_response(TURNS, '7')
  assert row.ids[0] == chatting.bos and len(row.ids) == 16


@pytest.mark.parametrize(
  ('turns', 'words'),
  [
    ([], 'an empty list'),
    (3, 'a int'),
    ([{'role': 'user'}], "turn 0: .*{'role', 'content'}"),
    ([{'role': 'bot', 'content': ''}], "turn 0: role 'bot'; known: system, user, assistant"),
    ([{'role': 'assistant', 'content': ''}], 'ends with an assistant turn'),
  ],
)
def test_conversations_are_checked(turns, words):
  with pytest.raises(ValueError, match=words):
    conversation.check_turns(turns)


def test_every_text_can_be_encoded(tokenizer):
  row = Encoder(tokenizer, 'dialogue', 512).encode_response(TURNS, '汉字 é \t🙂')
  assert tokenizer.decode(row.ids[row.start :]) == '汉字 é \t🙂' and np.all(row.ids >= 0)
