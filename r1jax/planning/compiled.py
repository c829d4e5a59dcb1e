"""What a compiled program says of itself: its memory, and the FLOPs of its products with loops counted in full.

The compiler's own cost analysis counts a loop's body once and is not used.
"""

import math
import re

UNITS = {'K': 2**10, 'M': 2**20, 'G': 2**30}


def memory(compiled):
  """Bytes on one device.

  Returns:
    dict with argument_bytes, temp_bytes, code_bytes; peak_bytes: arguments, results that take no argument's place and
    temporaries, which is what the compiler refuses by; and compiler_peak_bytes, its own figure, which for small
    programs counts more and for large ones less.
  """
  found = compiled.memory_analysis()
  argument, temp = found.argument_size_in_bytes, found.temp_size_in_bytes
  return {
    'argument_bytes': argument,
    'temp_bytes': temp,
    'code_bytes': found.generated_code_size_in_bytes,
    'peak_bytes': argument + found.output_size_in_bytes - found.alias_size_in_bytes + temp,
    'compiler_peak_bytes': found.peak_memory_in_bytes,
  }


def refused(message):
  """The bytes a program would need, from the compiler's refusal; None where the message is another one."""
  if 'RESOURCE_EXHAUSTED' not in message:
    return None
  found = re.findall(r'(?:temporaries \(|usage >= |Used )([\d.]+)([KMG])', message)
  return max((int(float(n) * UNITS[u]) for n, u in found), default=0)


def dot_flops(text):
  """FLOPs of all matrix products and convolutions in a compiled program.

  Args:
    text: of `Compiled.as_text()`, optimised HLO.

  Returns:
    FLOPs on one device, and the number of loops whose trip count is not in the text; their bodies count once.
  """
  computations, entry = _parse(text)
  known, open_loops = {}, set()

  def total(name):
    if name not in known:
      known[name] = sum(of(name, x) for x in computations[name].values())
    return known[name]

  def of(name, x):
    inside = computations[name]
    if x.op == 'dot':
      return _dot(x, inside)
    if x.op == 'convolution':
      return _convolution(x, inside)
    if x.op == 'ragged-dot':
      return _ragged_dot(x, inside)
    if x.op == 'while':
      body, condition = (_called(x.text, key)[0] for key in ('body', 'condition'))
      trips = _trips(x, inside, computations, body, condition)
      if trips is None:
        open_loops.add((name, x.name))
      return (1 if trips is None else trips) * total(body) + total(condition)
    if x.op == 'conditional':
      names = _called(x.text, 'branch_computations|true_computation|false_computation')
      return max(total(n) for n in names)
    return sum(total(n) for n in _called(x.text, 'calls|to_apply|called_computations'))

  return total(entry), len(open_loops)


class _Instruction:
  """One line of a computation: its name, shape (of a tuple: the first element's), operation, operands and text."""

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
  """{computation: {name: _Instruction}} and the entry's name."""
  computations, entry, current = {}, None, None
  for line in text.splitlines():
    head = re.match(r'(ENTRY )?%([\w.\-]+) \(.*\{\s*$', line)
    if head:
      current = computations[head[2]] = {}
      entry = head[2] if head[1] else entry
    elif current is not None:
      found = re.match(r'\s+(ROOT )?%([\w.\-]+) = (.*)$', line)
      if found:  # other lines belong to a kernel's text within one
        current[found[2]] = _Instruction(found[2], found[3], bool(found[1]))
  return computations, entry


def _called(text, keys):
  """Names of computations under these attributes."""
  found = re.findall(rf'(?:{keys})=(?:\{{([^}}]*)\}}|(%[\w.\-]+))', text)
  return [n for many, one in found for n in re.findall(r'%([\w.\-]+)', many or one)]


def _dims(text, key):
  found = re.search(rf'{key}={{([\d,]*)}}', text)
  return [int(n) for n in found[1].split(',') if n] if found else []


def _dot(x, inside):
  lhs = inside[x.operands[0]].shape
  return 2 * math.prod(x.shape) * math.prod(lhs[i] for i in _dims(x.attributes, 'lhs_contracting_dims'))


def _ragged_dot(x, inside):
  """Each row of the left side meets one group: rows x summed x columns, whichever of them is cut into groups."""
  lhs, rhs = (inside[name].shape for name in x.operands[:2])
  if len(x.shape) == 2:  # [m, k] by [groups, k, n]
    return 2 * math.prod(x.shape) * lhs[-1]
  return 2 * math.prod(lhs) * rhs[-1]  # [m, k] by [m, n] to [groups, k, n]


def _convolution(x, inside):
  """Products on a TPU are convolutions, whose windows stand for batch dimensions: only places that exist count."""
  lhs, rhs = (inside[name].shape for name in x.operands[:2])
  left, right, out = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', x.attributes).groups()
  spatial = sorted(c for c in out if c.isdigit())
  window = re.search(r'window={([^}]*)}', x.attributes)
  window = dict(part.split('=') for part in window[1].split()) if window else {}
  row = lambda key, default: window[key].split('x') if key in window else [default] * len(spatial)
  places = 1
  for i, c in enumerate(spatial):
    stride, dilate, spread = (int(row(key, 1)[i]) for key in ('stride', 'lhs_dilate', 'rhs_dilate'))
    low = int(str(row('pad', '0_0')[i]).split('_')[0])
    places *= _places(lhs[left.index(c)], rhs[right.index(c)], x.shape[out.index(c)], stride, dilate, spread, low)
  return 2 * x.shape[out.index('b')] * x.shape[out.index('f')] * rhs[right.index('i')] * places


def _places(size, kernel, result, stride, dilate, spread, low):
  """How many (result, kernel) places meet an entry rather than padding or a hole between entries."""
  count = 0
  for k in range(kernel):
    for r in range(result):
      at = r * stride + k * spread - low
      count += at % dilate == 0 and 0 <= at // dilate < size
  return count


def _trips(x, inside, computations, body, condition):
  """How often a while loop's body runs, from the constant in its condition; None where there is none."""
  known = re.search(r'"known_trip_count":\{"n":"(\d+)"', x.text)
  if known:
    return int(known[1])
  start = _element_of(inside, x.operands[0])
  root = next(i for i in computations[condition].values() if i.root)
  scope, compare = computations[condition], root
  arguments = {}
  if root.op == 'fusion':  # the comparison wrapped, its operands passed as parameters
    called = computations[_called(root.text, 'calls')[0]]
    compare = next(i for i in called.values() if i.root)
    arguments = {p.name: root.operands[int(p.inner)] for p in called.values() if p.op == 'parameter'}
    scope = called | {n: scope[a] for n, a in arguments.items()}
  if compare.op != 'compare' or 'direction=LT' not in compare.attributes:
    return None
  counter, limit = (scope[name] for name in compare.operands)
  if counter.op != 'get-tuple-element':
    return None
  index = _index(counter)
  end = _constant(limit)
  if end is None and limit.op == 'get-tuple-element':
    end = _unchanged(computations[body], _index(limit)) and start(_index(limit))
  begin = start(index)
  step = _step(computations[body], index)
  if end is None or end is False or step is None:
    return None
  return max(0, -(-(end - (begin or 0)) // step))


def _constant(x):
  found = re.fullmatch(r'-?\d+', x.inner) if x.op == 'constant' else None
  return int(found[0]) if found else None


def _index(x):
  return int(re.search(r'index=(\d+)', x.attributes)[1])


def _element_of(inside, name):
  """A function from an index to the constant at that place of the tuple `name`, or None."""

  def element(index):
    whole = inside[name]
    if whole.op != 'tuple':
      return None
    x = inside[whole.operands[index]]
    while x.op in ('copy', 'bitcast') and x.operands[0] in inside:
      x = inside[x.operands[0]]
    return _constant(x)

  return element


def _unchanged(body, index):
  """Whether the body hands on the element it was given."""
  root = next(i for i in body.values() if i.root)
  if root.op != 'tuple':
    return False
  x = body[root.operands[index]]
  return x.op == 'get-tuple-element' and _index(x) == index


def _step(body, index):
  """By how much the body moves its counter; 1 where the addition is out of sight."""
  root = next(i for i in body.values() if i.root)
  if root.op != 'tuple':
    return 1
  x = body[root.operands[index]]
  if x.op == 'add':
    return next((c for c in (_constant(body[n]) for n in x.operands) if c), 1)
  return 1
