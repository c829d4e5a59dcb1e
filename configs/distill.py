"""Distillation: the six students of R1 learn its 800,000 responses by SFT alone.

  python -m experiments.sft --config configs/distill.py:qwen2_5_math_7b --config.model.path=DIR \\
      --config.data.path=SET --workdir D
  python -m experiments.plan --config configs/distill.py:qwen2_5_math_7b           (what it needs of the slice named)

DIR is the student's base model, SET what `experiments/curate.py` has written, or any teacher's responses. Each variant
fits the TPU slice it names (docs/recipe.md); none was run. Numbers are marked `paper`
(docs/paper.md, v2 of the report) or `ours`.
"""
from configs import common, sft


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

BASES = dict(qwen2_5_math_1_5b='Qwen2.5-Math-1.5B', qwen2_5_math_7b='Qwen2.5-Math-7B', qwen2_5_14b='Qwen2.5-14B',
             qwen2_5_32b='Qwen2.5-32B', llama_3_1_8b='Llama-3.1-8B', llama_3_3_70b='Llama-3.3-70B-Instruct')  # paper


def get_config(variant='qwen2_5_math_7b'):
  return common.choose(STUDENTS, variant)
