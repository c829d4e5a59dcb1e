"""A filter of system calls that a program in the sandbox has no use for, for `bwrap --seccomp`.

What it closes: memory that no process has mapped and no limit counts (memfd, System V IPC), and parts
of the kernel where its own holes were found (bpf, io_uring, userfaultfd, keys), debugging of other
processes, and namespaces and mounts, which bubblewrap has closed already.
"""
import platform
import struct

# Numbers on x86_64 and on aarch64; None: not there.
_DENIED = {
    'ptrace': (101, 117), 'process_vm_readv': (310, 270), 'process_vm_writev': (311, 271), 'kcmp': (312, 272),
    'memfd_create': (319, 279), 'memfd_secret': (447, 447),
    'shmget': (29, 194), 'msgget': (68, 186), 'semget': (64, 190), 'mq_open': (240, 180),
    'unshare': (272, 97), 'setns': (308, 268), 'mount': (165, 40), 'umount2': (166, 39), 'pivot_root': (155, 41),
    'open_tree': (428, 428), 'move_mount': (429, 429), 'fsopen': (430, 430), 'fsmount': (432, 432),
    'mount_setattr': (442, 442), 'chroot': (161, 51), 'open_by_handle_at': (304, 265),
    'bpf': (321, 280), 'perf_event_open': (298, 241), 'userfaultfd': (323, 282),
    'io_uring_setup': (425, 425), 'io_uring_enter': (426, 426), 'io_uring_register': (427, 427),
    'add_key': (248, 217), 'request_key': (249, 218), 'keyctl': (250, 219), 'syslog': (103, 116),
    'modify_ldt': (154, None), 'personality': (135, 92),
}
_MACHINES = {'x86_64': (0, 0xC000003E), 'aarch64': (1, 0xC00000B7)}  # column above, AUDIT_ARCH of <linux/audit.h>
_X32 = 0x40000000                            # set in the numbers of x86_64's second table

# <linux/bpf_common.h>: a word of seccomp_data (0: the call's number, 4: the architecture) into the
# register; a jump where it equals, or is at least, a constant; the end with an action.
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050001, 0x80000000   # refuse: with EPERM


def program():
  """The filter's bytes (struct sock_filter[]); b'' on a machine whose numbers are not known here."""
  if platform.machine() not in _MACHINES:
    return b''
  column, architecture = _MACHINES[platform.machine()]
  denied = sorted(numbers[column] for numbers in _DENIED.values() if numbers[column] is not None)
  code = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
  tests = [(_EQUAL, number) for number in denied] + [(_AT_LEAST, _X32)]
  # A test that holds jumps to the end; one that does not goes on with the next, and then to the allowance.
  code += [(test, len(tests) - i, 0, constant) for i, (test, constant) in enumerate(tests)]
  code += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE)]
  return b''.join(struct.pack('HBBI', *instruction) for instruction in code)
