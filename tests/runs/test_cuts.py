"""Responses cut before their first reflection, with engines that answer from a script."""

import codecs
import concurrent.futures

import jax
from ml_collections import ConfigDict
import numpy as np

from configs import reflection as configs
from r1jax import config, rewards, rollout, templates
from r1jax.batch import EOS, LENGTH, RolloutBatch
from r1jax.evaluation import reflection
from r1jax.rewards.workers import pool
from r1jax.runs import cuts
from r1jax.sampling import SamplingParams


class Bytes:
  """A token is a byte, and 255 the end."""

  def encode(self, text, bos=False):
    return list(text.encode())

  def pieces(self, ids):
    decoder = codecs.getincrementaldecoder('utf-8')('replace')
    for i in ids:
      yield '' if i == 255 else decoder.decode(bytes([i]))
    yield decoder.decode(b'', final=True)

  def decode(self, ids):
    return ''.join(self.pieces(ids))

  def response(self, ids):
    return self.decode(ids), ()


def test_a_cut_is_before_the_token_that_begins_a_character():
  text = 'ab 等等c'
  ids = list(text.encode())
  assert cuts.places(Bytes(), ids, [0, 2, 3, 4, 5]) == [(0, 0), (2, 2), (3, 3), (6, 4), (9, 5)]
  words = type('Words', (Bytes,), {'pieces': lambda self, ids: iter(['So', '.', ' Wait', ',', ' no', ''])})()
  assert cuts.places(words, [1, 2, 3, 4, 5], [4]) == [(2, 3)]  # the space is in the token of the word


def test_reflecting_at_once():
  assert cuts.reflects_at_once('So 3.\n* Wait, no', 5)
  assert not cuts.reflects_at_once('So 3. Or wait, no', 5)
  assert not cuts.reflects_at_once('Wait. So 3.', 5)


class Engine:
  """Responds to a text with the next one of its list for each key, and remembers what it was asked."""

  shards, any_batch, watch = 1, True, None

  def __init__(self, script):
    self.script, self.asked, self.chosen = script, [], []

  def prepare_params(self, params):
    return params

  def sample(self, params, prompts, keys, sampling, version=0):
    self.asked.append([bytes(p).decode() for p in prompts])
    self.chosen.append((sampling, keys))
    texts = [self.script[text][: keys.shape[1]] for text in self.asked[-1]]
    tokens = np.zeros((*keys.shape, 80), np.int32)
    for row, text in zip(tokens.reshape(-1, 80), [t for group in texts for t in group]):
      row[: len(text.encode())] = list(text.encode())
    lengths = (tokens > 0).sum(axis=2)
    stop = np.where(lengths < 80, EOS, LENGTH)
    asked = np.zeros((len(prompts), max(map(len, prompts))), np.int32)
    for row, prompt in zip(asked, prompts):
      row[: len(prompt)] = prompt
    return RolloutBatch(
      asked, np.array([len(p) for p in prompts]), tokens, lengths, tokens > 0, tokens * 0.0, stop=stop
    )


class Grader:
  """Grades at once, in this process."""

  def submit(self, items, parts=None):
    done = concurrent.futures.Future()
    done.set_result(pool.Scores({'exact': np.array(rewards.REWARDS['exact'](items), np.float32)}, {}, 0, 0.0))
    return done


PROBLEMS = [{'id': 'p', 'problem': '1+1', 'answer': '2'}, {'id': 'q', 'problem': '5-2', 'answer': '3'}]
BOX = lambda n: f'\\boxed{{{n}}}'
OPEN = '<think>is 3'  # cut in the thinking, which is closed before the answer is asked for
SHUT = f'<think>so</think> {BOX(3)} '
WHOLE = {
  '1+1\n': [f'{OPEN}? Wait, 2</think> {BOX(2)}', f'<think>so</think> {BOX(2)}'],
  '5-2\n': [f'{SHUT}等等，{BOX(4)}', f'no. Wait, wait: {BOX(3)}'],
}
ANSWERS = {
  f'1+1\n{OPEN}? \n</think>\n\nThe answer is \\boxed{{': ['3}'],
  f'5-2\n{SHUT}\nThe answer is \\boxed{{': ['3}'],
  '5-2\nno. \nThe answer is \\boxed{': ['none'],
}
CONTINUED = {
  f'1+1\n{OPEN}? ': ['wait', f'Yes</think> {BOX(3)}', ' unused'],
  f'5-2\n{SHUT}': ['done, wait', '', ''],
  '5-2\nno. ': ['Wait', '\nwait', '!? Hold on'],
}


def test_rows_of_responses_and_of_what_is_left_of_them():
  c = configs.get_config('gsm8k')
  c.update(opening='\nThe answer is \\boxed{', tries=3)
  c.models.base = 'B'
  c.rollout.update(prompts=2, samples=2, max_prompt=40, max_response=80)
  c.reward.update(accuracy='exact')
  c.reward.parts, c.reward.options = ConfigDict(dict(exact=1.0)), ConfigDict()
  cfg, whole = config.convert(c, config.Reflection), Engine(WHOLE)
  answering, continuing = Engine(ANSWERS), Engine(CONTINUED)
  sampler = rollout.Sampler(whole, Bytes(), templates.TEMPLATES['plain'], Grader(), cfg.reward, 2)
  made = cuts.Cuts(cfg, sampler, answering, continuing)
  chosen = SamplingParams(0.6)
  rows = made.rows({}, PROBLEMS, 4, chosen, jax.random.key(0))
  assert [(r['id'], r['sample'], r['correct']) for r in rows] == [
    ('p', 0, True),
    ('p', 1, True),
    ('q', 0, False),
    ('q', 1, True),
  ]
  assert [r['at'] for r in rows] == [[len(OPEN) + 2], [], [len(SHUT)], [4, 10]]
  answered = [(r['answered']['correct'], r['answered']['same']) for r in rows if r['at']]
  assert answered == [(False, False), (True, False), (False, None)]  # the last one is not an answer
  assert rows[0]['answered']['text'] == '\n</think>\n\nThe answer is \\boxed{3}'
  text = f'Yes</think> {BOX(3)}'
  assert rows[0]['continued'] == {'correct': False, 'tokens': len(f'{OPEN}? {text}'), 'text': text}
  assert rows[2]['continued']['correct'] and rows[2]['continued']['text'] == 'done, wait'
  assert rows[3]['continued'] is None  # all of them reflect at once
  assert answering.chosen[0][0] == SamplingParams(0.0) and continuing.chosen[0][0] == chosen
  # Filled up to few shapes; a continuation's key is that of its response, whatever else is cut.
  assert [len(asked[0]) for asked in (answering.asked, continuing.asked)] == [cuts.TOGETHER] * 2
  alone = made.rows({}, PROBLEMS[1:], 5, chosen, jax.random.key(0))
  assert alone == rows[2:]
  drawn = [np.asarray(jax.random.key_data(keys)) for _, keys in continuing.chosen]
  np.testing.assert_array_equal(drawn[1][:2], drawn[0][1:3])
  found = reflection.summarise(rows)
  assert found['changes']['wrong to right'][0] == 2 / 3 and found['changes']['right to wrong'][0] == 1 / 3
  assert found['without']['continued responses'] == 2
