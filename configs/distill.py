"""Distillation: the six students of R1 learn its 800,000 responses by SFT alone.

  python -m experiments.sft --config configs/distill.py:qwen2_5_math_7b --config.model.path=DIR \\
      --config.data.path=SET --workdir D
  python -m experiments.plan --config configs/distill.py:qwen2_5_math_7b           (what it needs of the slice named)

DIR is the student's base model, SET what `experiments/curate.py` has written, or any teacher's responses. Each variant
fits the TPU slice it names (README); none was run. Numbers are marked `paper` (PAPER.md, v2 of the report) or `ours`.
"""
from ml_collections import ConfigDict

from configs import common


def _student(preset, learning_rate, topology, fsdp, tp, microbatch, context=0):
  """A student on a slice of a TPU pod.

  Args:
    preset: its base model's shape. learning_rate: paper. topology, fsdp, tp: the slice and its mesh (ours).
    microbatch: packed rows at a time (ours).
    context: tokens, where the base was made for fewer than a row has (131,072 as published with the students).
  """
  return ConfigDict(dict(
      seed=0,
      epochs=2.0, batch=64,                                                      # paper (v2: 2-3 epochs)
      context=context, topology=topology,                                        # ours
      model=dict(path='', preset=preset, dtype='bfloat16', remat='full', attention='auto'),  # ours (but the model)
      data=dict(source='jsonl', path='', eval_path='', eval_fraction=0.002,      # ours
                template='chat', chat_template='r1',                             # paper (as published)
                response='{response}', drop='',                                  # ours
                max_length=32_768),                                              # paper
      problems=dict(source='', path='', eval_path='', eval_fraction=0.05, name='', template='chat_boxed',
                    chat_template='r1', language='en'),                          # ours
      reward=dict(parts=dict(math=1.0, format=1.0), accuracy='math', options=dict(format=dict(form='r1')), gates=(),
                  step_credit=0.0, workers=8, timeout=5.0, overlong_buffer=0),   # ours
      optimizer=dict(name='adam', learning_rate=learning_rate, schedule='cosine', final_fraction=0.1,  # paper
                     warmup=0, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.0, grad_clip=1.0,
                     moment_dtype='float32'),                                    # ours
      eval=dict(every=500, texts=512, problems=0, samples=4, final_problems=0, final_samples=0, batch=32,
                max_prompt=1024, max_response=31_744, temperature=0.6, top_p=0.95),  # ours
      checkpoint=dict(every=200, keep=2, keep_every=0),                          # ours
      mesh=dict(data=1, fsdp=fsdp, expert=1, tp=tp, seq=1),                      # ours
      sampler_mesh=dict(data=0, fsdp=0, expert=0, tp=0, seq=0),
      microbatch=microbatch, logit_chunk=1024, param_dtype='float32', grad_dtype='float32', balance_rate=0.0))  # ours


LONG = 131_072                    # Qwen2.5-Math was made for 4,096 tokens; its students keep its rotary frequencies

STUDENTS = {
    'qwen2_5_math_1_5b': lambda: _student('qwen2_5_math_1_5b', 1e-4, 'v5e:2x4', 4, 2, 4, LONG),
    'qwen2_5_math_7b': lambda: _student('qwen2_5_math_7b', 8e-5, 'v5e:4x4', 4, 4, 4, LONG),
    'qwen2_5_14b': lambda: _student('qwen2_5_14b', 7e-5, 'v5p:2x2x2', 4, 2, 4),
    'qwen2_5_32b': lambda: _student('qwen2_5_32b', 6e-5, 'v5p:2x2x4', 4, 4, 4),
    'llama_3_1_8b': lambda: _student('llama3_1_8b', 5e-5, 'v5e:4x4', 4, 4, 4),
    'llama_3_3_70b': lambda: _student('llama3_3_70b', 2e-5, 'v5p:2x4x4', 8, 4, 8),
}


def get_config(variant='qwen2_5_math_7b'):
  return common.choose(STUDENTS, variant)
