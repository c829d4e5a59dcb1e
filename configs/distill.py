"""Distillation: the six students of R1 learn its 800,000 responses by SFT alone; `*_on_policy` learn from a teacher's
distributions over their own responses.

  python -m experiments.sft --config configs/distill.py:qwen2_5_math_7b --config.model.path=DIR \\
      --config.data.path=SET --workdir D
  python -m experiments.plan --config configs/distill.py:qwen2_5_math_7b           (what it needs of the slice named)
  python -m experiments.rl --config configs/distill.py:toy_on_policy --config.model.path=W/student_base \\
      --config.distill.path=W/final --workdir D          (W: the folder of the recipe configs/r1.py:toy, which ran)
  python -m experiments.rl --config configs/distill.py:r1_distill_qwen_1_5b_on_policy --config.model.path=DIR \\
      --config.distill.path=TEACHER --config.data.path=FILE --workdir D

DIR is the student's base model, SET what `experiments/curate.py` has written, or any teacher's responses. Each variant
fits the TPU slice it names (docs/recipe.md); none was run. Numbers are marked `paper`
(docs/paper.md, v2 of the report) or `ours`.
"""
from ml_collections import ConfigDict

from configs import common, r1_zero, sft


def _student(preset, learning_rate, topology, fsdp, tp, microbatch, context=0):
  """A student on a slice of a TPU pod.

  Args:
    preset: its base model's shape. learning_rate: paper. topology, fsdp, tp: the slice and its mesh (ours).
    microbatch: packed rows at a time (ours).
    context: tokens, where the base was made for fewer than a row has (131,072 as published with the students).
  """
  c = sft.get_config('stage3')                                                   # paper (the length, 2-3 epochs)
  c.update(batch=64)                                                             # paper
  c.update(context=context, topology=topology, microbatch=microbatch)            # ours
  c.model.preset = preset                                                        # paper
  c.optimizer.update(learning_rate=learning_rate,                                # paper (to a tenth, by a cosine)
                     moment_dtype='float32')                                     # ours
  c.reward.workers, c.eval.every, c.checkpoint.every = 8, 500, 200               # ours
  c.mesh.update(fsdp=fsdp, tp=tp)                                                # ours
  return c


LONG = 131_072                    # Qwen2.5-Math was made for 4,096 tokens; its students keep its rotary frequencies

STUDENTS = {
    'qwen2_5_math_1_5b': lambda: _student('qwen2_5_math_1_5b', 1e-4, 'v5e:2x4', 4, 2, 4, LONG),
    'qwen2_5_math_7b': lambda: _student('qwen2_5_math_7b', 8e-5, 'v5e:4x4', 4, 4, 4, LONG),
    'qwen2_5_14b': lambda: _student('qwen2_5_14b', 7e-5, 'v5p:2x2x2', 4, 2, 4),
    'qwen2_5_32b': lambda: _student('qwen2_5_32b', 6e-5, 'v5p:2x2x4', 4, 4, 4),
    'llama_3_1_8b': lambda: _student('llama3_1_8b', 5e-5, 'v5e:4x4', 4, 4, 4),
    'llama_3_3_70b': lambda: _student('llama3_3_70b', 2e-5, 'v5p:2x4x4', 8, 4, 8),
}

TOY_KINDS = dict(chain=('math', 2.0), logic=('logic', 1.0), code=('code', 1.0))  # kind: what grades it, its weight


def _taught(c, **rollout):
  """An RL config whose rewards teach nothing: a teacher's reverse KL does. They are graded all the same, as metrics."""
  c.loss.update(name='dapo', advantage='zero')                                   # the mean over all tokens, no KL else
  c.distill.update(coef=1.0, objective='reverse_kl')
  c.rollout.update(samples=4, **rollout)
  c.train.update(minibatches=1, reference_refresh=0)
  return c


def _toy_on_policy():
  """The recipe's student, base or not, and its final policy as the teacher, on the problems of `student_rl`.

  All numbers ours. Hardware: 2 CPU cores.
  """
  c = _taught(r1_zero.get_config('toy'), prompts=32, max_prompt=48, max_response=96, chunk=32)
  c.steps = 100
  c.data = ConfigDict(dict(
      source='mixture', path='', eval_path='', eval_fraction=0.0, name='', template='plain', chat_template='',
      language='en', evaluation=(), drop_solved=0.0,
      parts={kind: dict(source=f'r1_{kind}', kind=kind, weight=weight) for kind, (_, weight) in TOY_KINDS.items()}))
  c.reward = ConfigDict(dict(
      parts=dict(format=0.5), accuracy='', parts_by_kind={kind: {part: 1.0} for kind, (part, _) in TOY_KINDS.items()},
      options=dict(format=dict(form='r1'), logic=dict(where='tags'), code=dict(time_limit=2.0)), gates=(),
      step_credit=0.0, workers=2, timeout=10.0, overlong_buffer=0))
  c.optimizer.update(learning_rate=1e-3, schedule='linear', warmup=5, final_fraction=0.1)
  c.eval.update(every=20, problems=16, samples=16, final_problems=256, final_samples=8, temperature=0.6, top_p=0.95)
  c.checkpoint.every = 20
  return c


def _qwen_on_policy():
  """R1-Distill-Qwen-1.5B goes on to learn from R1-Distill-Qwen-7B, whose tokenizer it shares. Not run.

  Other models of Qwen2.5 have other special tokens, and so are refused as students of it. Numbers marked `published`
  are those of tinker-cookbook's recipe on_policy_distillation, which trains Qwen3-8B-Base, by its estimate of the KL
  from one sample; ours is exact.
  """
  c = _taught(common.rl(),                                                       # published (coef, samples, one step)
              prompts=1024, max_response=4096,                                   # published
              chunk=64)                                                          # ours
  c.update(steps=100, topology='v5e:4x4')                                        # published (the steps)
  c.model.preset, c.distill.preset = 'r1_distill_qwen_1_5b', 'r1_distill_qwen_7b'  # ours
  c.data.update(template='chat_boxed')                                           # ours (as the models were published)
  c.reward.options = ConfigDict(dict(format=dict(form='r1')))                    # ours
  c.reward.workers = 16                                                          # ours
  c.optimizer.learning_rate = 5e-5                                               # published (for all parameters)
  c.train.update(microbatch=16, length_slices=4)                                 # ours
  c.eval.update(every=20, temperature=0.6, top_p=0.95)                           # published (every); the paper's
  c.mesh.update(fsdp=16, tp=1)                                                   # ours
  return c


ON_POLICY = {'toy_on_policy': _toy_on_policy, 'r1_distill_qwen_1_5b_on_policy': _qwen_on_policy}

BASES = dict(qwen2_5_math_1_5b='Qwen2.5-Math-1.5B', qwen2_5_math_7b='Qwen2.5-Math-7B', qwen2_5_14b='Qwen2.5-14B',
             qwen2_5_32b='Qwen2.5-32B', llama_3_1_8b='Llama-3.1-8B', llama_3_3_70b='Llama-3.3-70B-Instruct')  # paper


def get_config(variant='qwen2_5_math_7b'):
  return common.choose(STUDENTS | ON_POLICY, variant)
