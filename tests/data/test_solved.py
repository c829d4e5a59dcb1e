"""Problems that are nearly always solved are not drawn again, whatever the run's interruptions."""

import json

import numpy as np
import pytest

from r1jax import config
from r1jax.data import order
from r1jax.data.solved import Solved

PROBLEMS = [{'id': str(i)} for i in range(60)]
ALWAYS = np.ones(1, bool)


def test_the_pass_rate_is_that_of_all_responses_so_far():
  solved = Solved(PROBLEMS, 0.9)
  a, b, c = PROBLEMS[:3]
  solved.record(a, 9, 10)
  solved.record(b, 8, 10)
  solved.record(c, 0, 1)
  assert a in solved and b not in solved and len(solved) == 1
  solved.record(b, 10, 10)  # 18 of 20
  solved.record(c, 10, 10)  # 10 of 11
  assert b in solved and c in solved
  solved.record(a, 0, 10)  # what is solved stays so
  assert a in solved and solved.history()['0'] == (9, 10)
  sevenths = Solved(PROBLEMS, 0.7)
  sevenths.record(a, 7, 10)  # 0.7 * 10 is more than 7 in floating point
  assert a in sevenths


def test_problems_without_ids_of_their_own_are_refused():
  with pytest.raises(config.ConfigError, match=r"drop_solved .* 1 ids .*'7'"):
    order.Draws([*PROBLEMS, {'id': '7'}], config.Data('trial', drop_solved=0.9), 0, 4)
  order.Draws([*PROBLEMS, {'id': '7'}], config.Data('trial'), 0, 4)


def rates(problem):
  """Right ones among 4 responses, by id: of every three problems one is always solved, one half of the time."""
  return (4, 2, 0)[int(problem['id'].lstrip('ab')) % 3]


def run(draws, extra, first=0, known=ALWAYS):
  """Ids and metrics of steps that take 1 + extra[step] draws each, which are recorded before the next draw."""
  out = []
  for step in range(first, len(extra)):
    ids = []
    for _ in range(1 + extra[step]):
      problems = draws.next(step)
      right = np.array([np.arange(4) < rates(p) for p in problems])
      draws.record(problems, right, np.broadcast_to(known, len(problems)))
      ids += [p['id'] for p in problems]
    out.append((ids, draws.metrics()))
  return out


@pytest.mark.parametrize('count', [7, 60, 25])
def test_an_epoch_is_the_permutation_without_the_problems_solved_before(count):
  got = run(order.Draws(PROBLEMS, config.Data('trial', drop_solved=0.9), 3, count), [0] * 12)
  endless = iter([p['id'] for p in order.batch(PROBLEMS, 3, 0, 6000)])
  gone = set()
  for ids, metrics in got:
    want = []
    while len(want) < count:
      if (name := next(endless)) not in gone:
        want.append(name)
    gone |= {name for name in want if int(name) % 3 == 0}
    assert ids == want and metrics == {'data/solved': len(gone)}


def test_nothing_is_dropped_where_nothing_can_be_right_or_without_the_setting():
  plain = run(order.Draws(PROBLEMS, config.Data('trial'), 3, 20), [0] * 9)
  assert all(metrics == {} for _, metrics in plain)
  unknown = run(order.Draws(PROBLEMS, config.Data('trial', drop_solved=0.9), 3, 20), [0] * 9, known=~ALWAYS)
  assert [ids for ids, _ in unknown] == [ids for ids, _ in plain] and unknown[-1][1] == {'data/solved': 0}


MIXTURE = config.Data(
  'mixture', parts={'a': config.Part('trial'), 'b': config.Part('trial', weight=2.0, start_step=2)}, drop_solved=0.9
)


def test_an_interrupted_run_draws_what_an_uninterrupted_one_draws():
  problems = [{'id': f'{part}{i}', 'part': part} for part in 'ab' for i in range(9)]
  extra = [1, 0, 3, 0, 2, 0, 1, 0, 2, 0]
  make = lambda: order.Draws(problems, MIXTURE, 0, 4)
  uninterrupted = run(make(), extra)
  assert uninterrupted[-1][1] == {'data/solved': 6}
  late = [name for ids, _ in uninterrupted[-2:] for name in ids]
  assert all(int(name[1:]) % 3 for name in late) and {name[0] for name in late} == {'a', 'b'}
  for cut in range(1, len(extra)):
    before, after = make(), make()
    assert run(before, extra[:cut]) == uninterrupted[:cut]
    position = json.loads(json.dumps(before.position()))
    run(before, extra, cut)  # what is saved does not change with what follows
    after.go_to(cut, position)
    assert run(after, extra, cut) == uninterrupted[cut:]


def test_a_part_whose_problems_are_all_solved_is_drawn_from_as_before(caplog):
  problems = [{'id': f'{part}{3 * i + (part == "b")}', 'part': part} for part in 'ab' for i in range(5)]
  draws = order.Draws(problems, MIXTURE, 0, 6)
  got = run(draws, [0] * 20)
  assert got[-1][1] == {'data/solved': 5}
  for part in 'ab':
    taken = [name for ids, _ in got for name in ids if name[0] == part]
    assert {taken.count(p['id']) for p in problems if p['part'] == part} <= {len(taken) // 5, len(taken) // 5 + 1}
  warnings = [record.getMessage() for record in caplog.records if 'drop_solved' in record.getMessage()]
  assert len(warnings) == 1 and 'all 5 problems of data.parts.a' in warnings[0]
