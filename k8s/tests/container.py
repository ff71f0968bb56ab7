"""Starts one container: reads a specification (JSON, first argument), builds its root, drops its privileges and executes the command.

It runs in new mount and pid namespaces, so the command is process 1. Its root is a tmpfs with the files of its image, its
volumes, and hosts and resolv.conf of its pod, read-only if the manifest says so. User, groups, capabilities and no_new_privs
come from the manifest too. Unlike in a cluster there are no cgroup limits and no seccomp profile.
"""

import ctypes
import json
import os
import shutil
import subprocess
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 24, 38
LAST_CAPABILITY = int(open("/proc/sys/kernel/cap_last_cap").read())


def mount(*arguments):
    subprocess.run(["mount", *arguments], check=True)


def bind(source, target, readonly=True):
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        open(target, "a").close()
    mount("--bind", source, target)
    if readonly:
        mount("-o", "remount,bind,ro", target)


def build_root(root, spec):
    mount("--make-rprivate", "/")
    mount("-t", "tmpfs", "-o", "mode=0755", "tmpfs", root)
    for source, target in spec["files"]:
        os.makedirs(root + os.path.dirname(target), exist_ok=True)
        shutil.copy(source, root + target)
        os.chmod(root + target, 0o755)
    for path in spec["binds"]:
        if os.path.islink(path):
            os.makedirs(root + os.path.dirname(path), exist_ok=True)
            os.symlink(os.readlink(path), root + path)
        elif os.path.exists(path):
            bind(path, root + path)
    os.makedirs(root + "/etc", exist_ok=True)
    for name, text in spec["etc"].items():
        with open(f"{root}/etc/{name}", "w") as file:
            file.write(text)
    os.makedirs(root + "/proc")
    mount("-t", "proc", "proc", root + "/proc")
    for device in ("null", "zero", "urandom"):
        bind(f"/dev/{device}", f"{root}/dev/{device}", readonly=False)
    for source, target, readonly in spec["mounts"]:
        bind(source, root + target, readonly)
    if spec["readonly"]:
        mount("-o", "remount,bind,ro", root)


def lock_in(spec):
    if spec["no_new_privs"] and LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no_new_privs")
    if spec["drop_all"]:
        for capability in range(LAST_CAPABILITY + 1):
            if LIBC.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
                raise OSError(ctypes.get_errno(), f"capability {capability}")
    os.setgroups(spec["groups"])
    os.setgid(spec["gid"])
    os.setuid(spec["uid"])


def main():
    spec = json.loads(sys.argv[1])
    build_root(spec["root"], spec)
    os.chroot(spec["root"])
    os.chdir("/")
    lock_in(spec)
    os.execvpe(spec["command"][0], spec["command"], spec["env"])


main()
