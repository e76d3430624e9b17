"""Numbers of Linux system calls, and which of them the sandbox denies.

Source: asm/unistd_64.h (x86_64) and asm-generic/unistd.h (aarch64) of Linux.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from typing import Any

NEWEST_KNOWN = 450
"""Later calls are answered as unknown: the C library falls back on older ones."""

Number = tuple[int | None, int | None]
"""On x86_64 and on aarch64; None where the call is not there."""

DENIED: dict[str, Number] = {
    # the network, and sockets of any kind
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "accept": (43, 202), "accept4": (288, 242), "sendto": (44, 206), "sendmsg": (46, 211), "sendmmsg": (307, 269),
    "recvfrom": (45, 207), "recvmsg": (47, 212), "recvmmsg": (299, 243), "shutdown": (48, 210),
    # new processes and programs; clone without CLONE_THREAD is in ARGUMENT_RULES
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281), "uselib": (134, None),
    # other processes
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438), "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "process_madvise": (440, 440), "process_mrelease": (448, 448), "kcmp": (312, 272), "setpriority": (141, 140),
    "ioprio_set": (251, 30), "sched_setaffinity": (203, 122), "sched_setattr": (314, 274),
    "sched_setscheduler": (144, 119), "sched_setparam": (142, 118), "migrate_pages": (256, 238),
    "move_pages": (279, 239), "setsid": (112, 157), "setpgid": (109, 154),
    # changing files and folders; opening them for writing is in ARGUMENT_RULES
    "creat": (85, None), "mkdir": (83, None), "mkdirat": (258, 34), "mknod": (133, None), "mknodat": (259, 33),
    "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276), "link": (86, None), "linkat": (265, 37),
    "symlink": (88, None), "symlinkat": (266, 36), "unlink": (87, None), "unlinkat": (263, 35), "rmdir": (84, None),
    "truncate": (76, 45), "fallocate": (285, 47), "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53),
    "chown": (92, None), "lchown": (94, None), "fchown": (93, 55), "fchownat": (260, 54), "utime": (132, None),
    "utimes": (235, None), "utimensat": (280, 88), "futimesat": (261, None), "setxattr": (188, 5),
    "lsetxattr": (189, 6), "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15),
    "fremovexattr": (199, 16), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262), "fanotify_mark": (301, 263),
    # mounts and namespaces
    "mount": (165, 40), "umount2": (166, 39), "move_mount": (429, 429), "open_tree": (428, 428), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97), "setns": (308, 268), "swapon": (167, 224),
    "swapoff": (168, 225), "quotactl": (179, 60), "quotactl_fd": (443, 443), "acct": (163, 89),
    # identity
    "setuid": (105, 146), "setgid": (106, 144), "setreuid": (113, 145), "setregid": (114, 143),
    "setresuid": (117, 147), "setresgid": (119, 149), "setgroups": (116, 159), "setfsuid": (122, 151),
    "setfsgid": (123, 152), "capset": (126, 91), "personality": (135, 92),
    # memory and messages shared with other processes
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "shmdt": (67, 197), "msgget": (68, 186),
    "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187), "semget": (64, 190), "semop": (65, 193),
    "semctl": (66, 191), "semtimedop": (220, 192), "mq_open": (240, 180), "mq_unlink": (241, 181),
    "mq_timedsend": (242, 182), "mq_timedreceive": (243, 183), "mq_notify": (244, 184), "mq_getsetattr": (245, 185),
    # ways into the kernel
    "bpf": (321, 280), "perf_event_open": (298, 241), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
    "userfaultfd": (323, 282), "memfd_create": (319, 279), "memfd_secret": (447, 447), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "create_module": (174, None), "reboot": (169, 142), "syslog": (103, 116), "settimeofday": (164, 170),
    "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266), "sethostname": (170, 161),
    "setdomainname": (171, 162), "iopl": (172, None), "ioperm": (173, None), "modify_ldt": (154, None),
    "vhangup": (153, 58), "nfsservctl": (180, 42), "lookup_dcookie": (212, 18), "_sysctl": (156, None),
}  # fmt: skip
"""Answered with EPERM."""
UNKNOWN: dict[str, Number] = {"clone3": (435, 435), "openat2": (437, 437)}
"""Answered as if the kernel were older: their arguments lie in memory, where a filter cannot look."""
OTHERS: dict[str, Number] = {
    "open": (2, None), "openat": (257, 56), "clone": (56, 220), "fcntl": (72, 25), "ioctl": (16, 29),
    "prlimit64": (302, 261), "prctl": (157, 167), "seccomp": (317, 277), "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445), "landlock_restrict_self": (446, 446),
}  # fmt: skip

_WRITING = 0o1103
"""O_WRONLY, O_RDWR, O_CREAT and O_TRUNC."""
_CLONE_THREAD = 0x10000
ARGUMENT_RULES: tuple[tuple[str, int, str, int], ...] = (
    ("open", 1, "any of", _WRITING),
    ("openat", 2, "any of", _WRITING),
    ("clone", 0, "none of", _CLONE_THREAD),
    ("prlimit64", 0, "other than", 0),  # the limits of another process
    ("prctl", 0, "is", 1),  # PR_SET_PDEATHSIG: outliving the parent
    ("fcntl", 1, "is", 8),  # F_SETOWN, F_SETSIG, F_SETOWN_EX: signals to others by way of a pipe
    ("fcntl", 1, "is", 10),
    ("fcntl", 1, "is", 15),
    ("ioctl", 1, "is", 0x5412),  # TIOCSTI, TIOCLINUX: typing into a terminal
    ("ioctl", 1, "is", 0x541C),
    ("ioctl", 1, "is", 0x8901),  # FIOSETOWN, SIOCSPGRP
    ("ioctl", 1, "is", 0x8902),
)
"""System call, place of its argument, and the test under which it is denied."""


@cache
def architecture() -> int | None:
    """0 on x86_64, 1 on aarch64; None where the numbers above are of no use."""
    if not sys.platform.startswith("linux") or sys.maxsize < 2**32 or sys.byteorder != "little":
        return None
    return {"x86_64": 0, "aarch64": 1}.get(os.uname().machine)


def number(name: str) -> int | None:
    """The number of a call here; None where it is not there."""
    place = architecture()
    return None if place is None else {**DENIED, **UNKNOWN, **OTHERS}[name][place]


def call(name: str, *arguments: Any) -> int:
    """Makes a system call by its name.

    Args:
        name: in one of the tables above.
        arguments: integers, and structures of ctypes, which are passed by their address.

    Raises:
        OSError: when the kernel refuses it, or does not have it.
    """
    found = number(name)
    if found is None:
        raise OSError(38, f"there is no {name} here")
    library = ctypes.CDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long
    passed = [ctypes.c_long(item) if isinstance(item, int) else ctypes.byref(item) for item in arguments]
    result = int(library.syscall(ctypes.c_long(found), *passed))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")
    return result
