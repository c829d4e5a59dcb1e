"""A filter that denies system calls which a program in the sandbox does not need, for `bwrap --seccomp`.

It denies access to memory that no process has mapped and no limit counts (memfd, System V IPC, networks, pages given to
a pipe), to parts of the kernel with a history of vulnerabilities (bpf, io_uring, userfaultfd, keys), to debugging of
other processes, and to namespaces and mounts, which bubblewrap has closed already.
"""

import errno
import fcntl
import mmap
import platform
import socket
import struct

# System call numbers on x86_64 and on aarch64; None: it does not exist there.
_DENIED = {
  'ptrace': (101, 117),
  'process_vm_readv': (310, 270),
  'process_vm_writev': (311, 271),
  'kcmp': (312, 272),
  'memfd_create': (319, 279),
  'memfd_secret': (447, 447),
  'shmget': (29, 194),
  'msgget': (68, 186),
  'semget': (64, 190),
  'mq_open': (240, 180),
  'vmsplice': (278, 75),
  'splice': (275, 76),
  'tee': (276, 77),
  'io_setup': (206, 0),
  'inotify_init': (253, None),
  'inotify_init1': (294, 26),
  'fanotify_init': (300, 262),
  'landlock_create_ruleset': (444, 444),
  'seccomp': (317, 277),
  'unshare': (272, 97),
  'setns': (308, 268),
  'mount': (165, 40),
  'umount2': (166, 39),
  'pivot_root': (155, 41),
  'open_tree': (428, 428),
  'move_mount': (429, 429),
  'fsopen': (430, 430),
  'fsmount': (432, 432),
  'mount_setattr': (442, 442),
  'chroot': (161, 51),
  'open_by_handle_at': (304, 265),
  'bpf': (321, 280),
  'perf_event_open': (298, 241),
  'userfaultfd': (323, 282),
  'io_uring_setup': (425, 425),
  'io_uring_enter': (426, 426),
  'io_uring_register': (427, 427),
  'add_key': (248, 217),
  'request_key': (249, 218),
  'keyctl': (250, 219),
  'syslog': (103, 116),
  'modify_ldt': (154, None),
  'personality': (135, 92),
}
_ALL, _ANONYMOUS = 0xFFFFFFFF, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS
_HUGETLB = 0x40000  # MAP_HUGETLB
_SECCOMP, _FUTEX_HASH = 22, 78  # of prctl: filters of its own, and a futex table of any size
_SO_SNDBUFFORCE = 32

# (numbers, argument, mask, values): the call is denied if the masked argument is one of the values.
_ARGUMENTS = [
  ((9, 222), 3, _HUGETLB, (_HUGETLB,)),  # mmap
  ((54, 208), 2, _ALL, (socket.SO_SNDBUF, _SO_SNDBUFFORCE)),  # setsockopt
  ((157, 167), 0, _ALL, (_SECCOMP, _FUTEX_HASH)),  # prctl
]
# Denied only if no control group counts the kernel's memory: shared memory that outlives its mapping, and file locks.
_UNCOUNTED = [
  ((9, 222), 3, _ANONYMOUS, (_ANONYMOUS,)),  # mmap
  ((72, 25), 1, _ALL, (fcntl.F_SETLK, fcntl.F_SETLKW, fcntl.F_OFD_SETLK, fcntl.F_OFD_SETLKW)),  # fcntl
]
_SOCKETS = ((41, 198), (53, 199))  # socket and socketpair: only AF_UNIX, because AF_VSOCK ignores namespaces
_MACHINES = {'x86_64': (0, 0xC000003E), 'aarch64': (1, 0xC00000B7)}  # column above, AUDIT_ARCH of <linux/audit.h>
_X32 = 0x40000000  # set in the numbers of x86_64's second table

# <linux/bpf_common.h>: load a word of seccomp_data (0: number of the call, 4: architecture, from 16 on: arguments) into
# the register; mask it; jump if it equals, or is at least, a constant; return an action.
_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_ALLOW, _ERROR, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_REFUSE = _ERROR | errno.EPERM


def program(counted):
  """The filter as bytes (struct sock_filter[]); b'' on a machine whose system call numbers are not known here.

  counted: whether a control group of the sandbox counts the kernel's memory (`r1jax.rewards.coding.cgroup`).
  """
  if platform.machine() not in _MACHINES:
    return b''
  column, architecture = _MACHINES[platform.machine()]
  code = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
  for numbers, argument, mask, values in _ARGUMENTS + ([] if counted else _UNCOUNTED):
    code += _argument(numbers[column], argument, mask, values, refused=_REFUSE)
  for numbers in _SOCKETS:
    code += _argument(numbers[column], 0, _ALL, (socket.AF_UNIX,), others=_ERROR | errno.EAFNOSUPPORT)
  denied = sorted(numbers[column] for numbers in _DENIED.values() if numbers[column] is not None)
  tests = [(_EQUAL, number) for number in denied] + [(_AT_LEAST, _X32)]
  # A test that matches jumps to the last instruction (deny); if none matches, the one before it allows the call.
  code += [(test, len(tests) - i, 0, constant) for i, (test, constant) in enumerate(tests)]
  code += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE)]
  return b''.join(struct.pack('HBBI', *instruction) for instruction in code)


def _argument(number, argument, mask, values, refused=_ALLOW, others=None):
  """Instructions that return `refused` if an argument of a call is one of the values, else `others` if it is given."""
  tests = [(_LOAD, 0, 0, 16 + 8 * argument), (_AND, 0, 0, mask)]
  tests += [(_EQUAL, len(values) - i, 0, value) for i, value in enumerate(values)]
  tests += [(_EQUAL, 1, 1, 0) if others is None else (_RETURN, 0, 0, others), (_RETURN, 0, 0, refused)]
  # Without `others`, the dummy test skips the return of `refused` in either case, so only a jump reaches it.
  return [(_EQUAL, 0, len(tests) + 1, number), *tests, (_LOAD, 0, 0, 0)]
