"""On-policy distillation as a command: the policy comes closer to its teacher; killed and resumed with equal bits."""

import pytest


@pytest.mark.slow
def test_a_policy_comes_closer_to_its_teacher_and_a_killed_run_ends_alike(runs, tmp_path):
  teacher = tmp_path / 'teacher'
  runs.finish(teacher, {'optimizer.learning_rate': 3e-2, 'eval.every': 9})
  settings = {
    'steps': 10,
    'loss.name': 'dapo',
    'loss.advantage': 'zero',
    'distill.coef': 1.0,
    'distill.path': teacher,
    'optimizer.learning_rate': 1e-2,
    'optimizer.warmup': 0,
    'train.microbatch': 8,
    'train.length_slices': 2,
  }
  want, got = tmp_path / 'uninterrupted', tmp_path / 'killed'
  runs.finish(want, settings)
  kl = [row['distill/kl'] for row in runs.metrics(want) if 'distill/kl' in row]
  assert len(kl) == 10 and min(kl) > 0 and sum(kl[-3:]) < 0.5 * sum(kl[:3]), kl
  assert not [name for name in runs.last_checkpoint(want)[1] if 'frozen' in name or 'teachers' in name]
  saved = got / 'checkpoints' / 'step_000004'
  runs.kill(got, saved.exists, settings)
  runs.finish(got, settings)
  runs.same(got, want)
  assert 'other settings: distill' in runs.refuse(got, settings | {'distill.path': want})
  assert 'there is no teacher' in runs.refuse(tmp_path / 'none', settings | {'distill.path': None})
