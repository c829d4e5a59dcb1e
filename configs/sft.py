"""Supervised fine-tuning: cold start, the second SFT of R1, worked solutions, a toy.

  python -m experiments.sft --config configs/sft.py:stage3 --config.model.path=DIR --config.data.path=SET --workdir D
  python -m experiments.sft --config configs/sft.py:gsm8k --config.model.path=DIR \\
      --config.data.path=gsm8k_train.jsonl.gz --config.problems.path=gsm8k_train.jsonl.gz \\
      --config.data.eval_path=gsm8k_test.jsonl --config.problems.eval_path=gsm8k_test.jsonl --workdir D

Numbers are marked `paper` (docs/paper.md, v2 of the report) or `ours`. `stage3` and `cold_start` are for
DeepSeek-V3-Base on the slice named, which `experiments.plan` says they fit; not run. For other models and hardware give
`model.preset`, `mesh.*` and `microbatch`. The toy takes a minute on 2 CPU cores.
"""
from ml_collections import ConfigDict

from configs import common


def _stage3():
  """The base learns the 800,000 curated responses, thinking and summary, of which a quarter may think nothing.

  A row that names a template, as those sampled for a part of configs/r1_rl.py do, is asked by that: as in RL.
  """
  return ConfigDict(dict(
      seed=0,
      epochs=2.0, batch=128,                                                     # paper (v2: 2-3 epochs)
      context=0, topology='v5p:4x8x8',                                           # ours
      model=dict(path='', preset='deepseek_v3', dtype='bfloat16', remat='full', attention='auto'),  # paper (the model)
      data=dict(source='jsonl', path='', eval_path='', eval_fraction=0.002,      # ours
                template='chat', chat_template='r1',                             # ours (as the models were published)
                response='{response}', drop='',                                  # ours
                max_length=32_768),                                              # paper
      problems=dict(source='', path='', eval_path='', eval_fraction=0.05, name='', template='chat_boxed',
                    chat_template='r1', language='en'),                          # ours
      reward=dict(parts=dict(math=1.0, format=1.0), accuracy='math', options=dict(format=dict(form='r1')),
                  gates=(), step_credit=0.0, workers=2, timeout=5.0, overlong_buffer=0),  # ours
      optimizer=dict(name='adam', learning_rate=5e-5, schedule='cosine', final_fraction=0.1,  # paper (to 5e-6)
                     warmup=0, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.0, grad_clip=1.0,
                     moment_dtype='bfloat16'),                                   # ours (as DeepSeek-V3 was trained)
      eval=dict(every=200, texts=512, problems=0, samples=4, final_problems=0, final_samples=0, batch=32,
                max_prompt=1024, max_response=31_744, temperature=0.6, top_p=0.95),  # ours
      checkpoint=dict(every=100, keep=2, keep_every=0),                          # ours
      mesh=dict(data=1, fsdp=32, expert=1, tp=8, seq=1),                         # ours
      sampler_mesh=dict(data=0, fsdp=0, expert=0, tp=0, seq=0),
      microbatch=32, logit_chunk=1024, param_dtype='float32', grad_dtype='float32', balance_rate=0.0,  # ours
      mtp_coef=0.0,                                                              # ours; not stated
      lora=dict(rank=0, alpha=32.0, targets=(), path='')))                       # ours


def _cold_start():
  """The base learns some thousands of long chains with summaries (experiments/cold_start.py writes such).

  The paper's numbers are those of the second SFT; that they hold here too is ours.
  """
  c = _stage3()
  c.data.update(eval_fraction=0.02, template='chat_boxed')                       # ours (as RL asks for mathematics)
  c.eval.update(every=20, texts=0)
  c.checkpoint.update(every=20)
  return c


def _traces():
  """Files of traces with fields 'problem', 'reasoning' and 'response', such as collections of R1's; else cold_start."""
  c = _cold_start()
  c.data.response = '<think>\n{reasoning}\n</think>\n\n{response}'
  return c


def _gsm8k():
  """GSM8K's worked solutions as chains, a small model on one accelerator or more. All numbers ours. Not run."""
  c = _stage3()
  c.update(epochs=3.0, batch=16, microbatch=4, topology='')
  c.model.preset = ''
  c.data.update(response='<think>\n{solution}\n</think>\n\nThe answer is \\boxed{{answer}}.', drop='<<[^<>]*>>',
                max_length=2048, template='chat_boxed')
  c.problems.source = 'jsonl'
  c.optimizer.update(learning_rate=1e-5, warmup=10, moment_dtype='float32')
  c.eval.update(every=50, texts=256, problems=128, samples=1, final_problems=512, batch=32, max_response=1024)
  c.mesh.update(fsdp=-1, tp=1)
  return c


def _toy():
  """The right answers among what the chained-arithmetic world's authors wrote, for its base. All numbers ours."""
  c = _gsm8k()
  c.update(epochs=3.0, batch=8, microbatch=0)
  c.model.update(dtype='float32', remat='none')
  c.data.update(source='chain', max_length=512, template='plain', chat_template='', response='{response}', drop='',
                eval_fraction=0.05)
  c.problems.update(source='chain', template='plain', chat_template='')
  c.reward.options = ConfigDict(dict())
  c.reward.workers = 1
  c.optimizer.update(learning_rate=1e-3, warmup=5)
  c.eval.update(every=20, texts=0, problems=64, samples=4, final_problems=256, final_samples=4, max_prompt=32,
                max_response=72, batch=64, temperature=1.0, top_p=1.0)
  c.checkpoint.update(every=20)
  return c


def _smollm2():
  """Worked solutions of arithmetic in words, for SmolLM2-135M: the cold start of configs/r1_zero.py:smollm2.

  Hardware: 2 CPU cores. All numbers ours.
  """
  c = _gsm8k()
  c.update(epochs=0.25, batch=8, microbatch=8)                                   # 500 of 2,000 texts
  c.model.update(dtype='float32', remat='products')
  c.data.update(source='stories', max_length=320, chat_template='', response='{response}', drop='')
  c.problems.update(source='stories', chat_template='')
  c.reward.workers = 1
  c.optimizer.update(learning_rate=1e-4, warmup=5)
  c.eval.update(every=1000, texts=0, problems=0, samples=1, final_problems=0, final_samples=0, max_prompt=160,
                max_response=96)
  c.checkpoint.update(every=10)
  return c


def get_config(variant='toy'):
  return common.choose({'toy': _toy, 'smollm2': _smollm2, 'gsm8k': _gsm8k, 'traces': _traces, 'cold_start': _cold_start,
                        'stage3': _stage3}, variant)
