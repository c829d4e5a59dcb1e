"""Memory of a compiled program, and the FLOPs of its matrix products with every iteration of loops counted.

The compiler's own cost analysis is not used, because it counts the body of a loop once.
"""

import math
import re

UNITS = {'K': 2**10, 'M': 2**20, 'G': 2**30}


def memory(compiled):
  """Memory of a compiled program in bytes on one device.

  Returns:
    dict with argument_bytes, temp_bytes and code_bytes; peak_bytes: arguments, temporaries, and results that do not
    reuse an argument's buffer, which is the sum the compiler compares with its limit; and compiler_peak_bytes, the
    compiler's own peak, which is higher for small programs and lower for large ones.
  """
  analysis = compiled.memory_analysis()
  argument, temp = analysis.argument_size_in_bytes, analysis.temp_size_in_bytes
  return {
    'argument_bytes': argument,
    'temp_bytes': temp,
    'code_bytes': analysis.generated_code_size_in_bytes,
    'peak_bytes': argument + analysis.output_size_in_bytes - analysis.alias_size_in_bytes + temp,
    'compiler_peak_bytes': analysis.peak_memory_in_bytes,
  }


def bytes_of_refusal(message):
  """The bytes a program would need according to the compiler's out-of-memory error; None for any other error."""
  if 'RESOURCE_EXHAUSTED' not in message:
    return None
  sizes = re.findall(r'(?:temporaries \(|usage >= |Used )([\d.]+)([KMG])', message)
  return max((int(float(n) * UNITS[u]) for n, u in sizes), default=0)


def dot_flops(text):
  """FLOPs of all matrix products and convolutions in a compiled program.

  Args:
    text: optimised HLO, from `Compiled.as_text()`.

  Returns:
    FLOPs on one device, and the number of loops whose trip count is not in the text; their bodies are counted once.
  """
  computations, entry = _parse(text)
  totals, open_loops = {}, set()

  def total(name):
    if name not in totals:
      totals[name] = sum(instruction_flops(name, x) for x in computations[name].values())
    return totals[name]

  def instruction_flops(name, x):
    scope = computations[name]
    if x.op == 'dot':
      return _dot(x, scope)
    if x.op == 'convolution':
      return _convolution(x, scope)
    if x.op == 'ragged-dot':
      return _ragged_dot(x, scope)
    if x.op == 'while':
      body, condition = (_called(x.text, key)[0] for key in ('body', 'condition'))
      trips = _trip_count(x, scope, computations, body, condition)
      if trips is None:
        open_loops.add((name, x.name))
      return (1 if trips is None else trips) * total(body) + total(condition)
    if x.op == 'conditional':
      names = _called(x.text, 'branch_computations|true_computation|false_computation')
      return max(total(n) for n in names)
    return sum(total(n) for n in _called(x.text, 'calls|to_apply|called_computations'))

  return total(entry), len(open_loops)


class _Instruction:
  """One line of a computation: its name, shape (for a tuple, of the first element), operation, operands and text."""

  def __init__(self, name, text, root):
    self.name, self.text, self.root = name, text, root
    shape = re.search(r'\[([\d,]*)\]', text)
    self.shape = tuple(int(n) for n in shape[1].split(',') if n) if shape else ()
    op = re.search(r' ([a-z][a-z0-9\-]*)\(', ' ' + text)
    self.op = op[1] if op else ''
    inner = text[op.end() - 1 :] if op else ''
    depth, end = 1, 0
    while depth and end < len(inner):
      depth += (inner[end] == '(') - (inner[end] == ')')
      end += 1
    self.inner, self.attributes = inner[: end - 1], inner[end:]
    self.operands = re.findall(r'%([\w.\-]+)', self.inner)


def _parse(text):
  """({computation: {name: _Instruction}}, name of the entry computation) of HLO text."""
  computations, entry, current = {}, None, None
  for line in text.splitlines():
    head = re.match(r'(ENTRY )?%([\w.\-]+) \(.*\{\s*$', line)
    if head:
      current = computations[head[2]] = {}
      entry = head[2] if head[1] else entry
    elif current is not None:
      match = re.match(r'\s+(ROOT )?%([\w.\-]+) = (.*)$', line)
      if match:  # other lines belong to the embedded text of a kernel
        current[match[2]] = _Instruction(match[2], match[3], bool(match[1]))
  return computations, entry


def _called(text, keys):
  """Names of the computations in these attributes."""
  attributes = re.findall(rf'(?:{keys})=(?:\{{([^}}]*)\}}|(%[\w.\-]+))', text)
  return [n for many, one in attributes for n in re.findall(r'%([\w.\-]+)', many or one)]


def _dims(text, key):
  match = re.search(rf'{key}={{([\d,]*)}}', text)
  return [int(n) for n in match[1].split(',') if n] if match else []


def _dot(x, scope):
  lhs = scope[x.operands[0]].shape
  return 2 * math.prod(x.shape) * math.prod(lhs[i] for i in _dims(x.attributes, 'lhs_contracting_dims'))


def _ragged_dot(x, scope):
  """Each row of the left side belongs to one group: rows x contracted x columns, whichever is split into groups."""
  lhs, rhs = (scope[name].shape for name in x.operands[:2])
  if len(x.shape) == 2:  # [m, k] by [groups, k, n]
    return 2 * math.prod(x.shape) * lhs[-1]
  return 2 * math.prod(lhs) * rhs[-1]  # [m, k] by [m, n] to [groups, k, n]


def _convolution(x, scope):
  """On a TPU, matrix products are convolutions whose windows stand for batch dimensions; padding does not count."""
  lhs, rhs = (scope[name].shape for name in x.operands[:2])
  left, right, out = re.findall(r'dim_labels=(\w+)_(\w+)->(\w+)', x.attributes)[0]
  spatial = sorted(c for c in out if c.isdigit())
  window = re.search(r'window={([^}]*)}', x.attributes)
  window = dict(part.split('=') for part in window[1].split()) if window else {}
  row = lambda key, default: window[key].split('x') if key in window else [default] * len(spatial)
  positions = 1
  for i, c in enumerate(spatial):
    stride, dilate, spread = (int(row(key, 1)[i]) for key in ('stride', 'lhs_dilate', 'rhs_dilate'))
    low = int(str(row('pad', '0_0')[i]).split('_')[0])
    positions *= _positions(lhs[left.index(c)], rhs[right.index(c)], x.shape[out.index(c)], stride, dilate, spread, low)
  return 2 * x.shape[out.index('b')] * x.shape[out.index('f')] * rhs[right.index('i')] * positions


def _positions(size, kernel, result, stride, dilate, spread, low):
  """How many (result, kernel) positions hit an input element rather than padding or a gap left by dilation."""
  count = 0
  for k in range(kernel):
    for r in range(result):
      at = r * stride + k * spread - low
      count += at % dilate == 0 and 0 <= at // dilate < size
  return count


def _trip_count(x, scope, computations, body, condition):
  """How often the body of a while loop runs, from the constant in its condition; None if that is not constant."""
  known = re.search(r'"known_trip_count":\{"n":"(\d+)"', x.text)
  if known:
    return int(known[1])
  initial = lambda index: _tuple_constant(scope, x.operands[0], index)
  root = next(i for i in computations[condition].values() if i.root)
  inner, compare = computations[condition], root
  if root.op == 'fusion':  # the comparison is in a called computation, its operands passed as parameters
    called = computations[_called(root.text, 'calls')[0]]
    compare = next(i for i in called.values() if i.root)
    arguments = {p.name: root.operands[int(p.inner)] for p in called.values() if p.op == 'parameter'}
    inner = called | {n: inner[a] for n, a in arguments.items()}
  if compare.op != 'compare' or 'direction=LT' not in compare.attributes:
    return None
  counter, limit = (inner[name] for name in compare.operands)
  if counter.op != 'get-tuple-element':
    return None
  index = _index(counter)
  end = _constant(limit)
  if end is None and limit.op == 'get-tuple-element':
    end = _is_invariant(computations[body], _index(limit)) and initial(_index(limit))
  begin = initial(index)
  step = _step(computations[body], index)
  if end is None or end is False or step is None:
    return None
  return max(0, -(-(end - (begin or 0)) // step))


def _constant(x):
  match = re.fullmatch(r'-?\d+', x.inner) if x.op == 'constant' else None
  return int(match[0]) if match else None


def _index(x):
  return int(re.findall(r'index=(\d+)', x.attributes)[0])


def _tuple_constant(scope, name, index):
  """The constant at `index` of the tuple `name`; None if it is not constant."""
  tuple_ = scope[name]
  if tuple_.op != 'tuple':
    return None
  x = scope[tuple_.operands[index]]
  while x.op in ('copy', 'bitcast') and x.operands[0] in scope:
    x = scope[x.operands[0]]
  return _constant(x)


def _is_invariant(body, index):
  """Whether the loop's body returns this element of its tuple unchanged."""
  root = next(i for i in body.values() if i.root)
  if root.op != 'tuple':
    return False
  x = body[root.operands[index]]
  return x.op == 'get-tuple-element' and _index(x) == index


def _step(body, index):
  """By how much the body increments its counter; 1 if the addition is not in the body itself."""
  root = next(i for i in body.values() if i.root)
  if root.op != 'tuple':
    return 1
  x = body[root.operands[index]]
  if x.op == 'add':
    return next((c for c in (_constant(body[n]) for n in x.operands) if c), 1)
  return 1
