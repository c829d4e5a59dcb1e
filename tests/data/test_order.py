"""The order of problems: it depends only on (seed, step), and every epoch has every problem once."""

import json
import subprocess
import sys

import pytest

from r1jax import config
from r1jax.data import order

PROBLEMS = [{'id': str(i)} for i in range(60)]


def ids(seed, step, count=12, problems=PROBLEMS):
  return [p['id'] for p in order.batch(problems, seed, step, count)]


def test_a_step_depends_on_seed_and_step_alone():
  forwards = [ids(3, s) for s in range(20)]
  backwards = [ids(3, s) for s in reversed(range(20))]
  assert forwards == backwards[::-1]
  assert all(len(b) == 12 for b in forwards)


def test_another_process_sees_the_same_order():
  code = (
    'from r1jax.data import order; print(*[i for s in (0, 7, 10**6) for i in order.batch(list(range(60)), 3, s, 12)])'
  )
  out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
  assert out.split() == [i for s in (0, 7, 10**6) for i in ids(3, s)]


@pytest.mark.parametrize('count', [12, 7, 60, 1])  # 7: steps straddle epochs
def test_every_epoch_holds_every_problem_once_in_a_new_order(count):
  stream = [i for s in range(4 * 60 // count + 1) for i in ids(0, s, count)]
  epochs = [stream[e * 60 : (e + 1) * 60] for e in range(4)]
  for epoch in epochs:
    assert sorted(epoch, key=int) == [p['id'] for p in PROBLEMS]
  assert len({tuple(e) for e in epochs}) == 4


def test_each_seed_has_its_own_order():
  orders = {tuple(ids(seed, 0, 60)) for seed in range(20)}
  assert len(orders) == 20 and tuple(p['id'] for p in PROBLEMS) not in orders


def test_more_prompts_than_problems():
  assert sorted(ids(0, 0, 6, PROBLEMS[:2])) == ['0'] * 3 + ['1'] * 3


def steps(draws, extra, first=0):
  """Ids drawn by steps that take 1 + extra[step] draws each, from step `first` on."""
  return [[p['id'] for _ in range(1 + extra[step]) for p in draws.next(step)] for step in range(first, len(extra))]


def test_an_epoch_holds_every_problem_once_however_many_draws_a_step_takes():
  data = config.Data('trial')
  extra = [0, 3, 1, 0, 2, 0, 0, 3, 0, 0, 1, 0, 0, 0]  # 24 draws of 5: two epochs
  uninterrupted = steps(order.Draws(PROBLEMS, data, 3, 5), extra)
  stream = sum(uninterrupted, [])
  assert [sorted(stream[e : e + 60], key=int) for e in (0, 60)] == [[p['id'] for p in PROBLEMS]] * 2
  assert stream == sum((ids(3, draw, 5) for draw in range(24)), [])
  assert steps(order.Draws(PROBLEMS, data, 3, 5), [0] * 4) == [ids(3, step, 5) for step in range(4)]


def test_draws_continue_from_a_saved_position():
  parts = {
    'a': config.Part('trial'),
    'b': config.Part('trial', weight=2.0, start_step=2),
    'c': config.Part('trial', start_step=4),
  }
  problems = [{'id': f'{part}{i}', 'part': part} for part in parts for i in range(12)]
  data, extra = config.Data('mixture', parts=parts), [1, 0, 3, 0, 2, 0, 1, 0]
  make = lambda: order.Draws(problems, data, 0, 4)
  draws = make()
  uninterrupted = steps(draws, extra)
  for cut in range(1, len(extra)):
    before, after = make(), make()
    assert steps(before, extra[:cut]) == uninterrupted[:cut]
    after.go_to(cut, json.loads(json.dumps(before.position())))
    assert steps(after, extra, cut) == uninterrupted[cut:]
    for part in parts:  # 12 of one part in a row are all of them
      part_ids = [i for step in uninterrupted for i in step if i[0] == part]
      assert len(set(part_ids[:12])) == min(12, len(part_ids))
  assert {i[0] for i in uninterrupted[1]} == {'a'} and {i[0] for i in uninterrupted[3]} == {'a', 'b'}
  one_draw_each = steps(make(), [0] * 8)
  for cut in (1, 2, 3, 5):  # a run that was saved without a position took one draw per step
    after = make()
    after.go_to(cut)
    assert steps(after, [0] * 8, cut) == one_draw_each[cut:]
