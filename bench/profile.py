"""Reads a callgrind file: FILE REQUESTS. Prints instructions and allocations per request, and where both come from."""

import collections
import re
import sys


def main():
    path, requests = sys.argv[1], int(sys.argv[2])
    own, allocations = collections.Counter(), collections.Counter()
    names, current, called, calls = {}, None, None, 0
    with open(path) as lines:
        for line in lines:
            if match := re.match(r"(c?fn)=\((\d+)\)(?: (.*))?", line):
                kind, number, name = match.groups()
                if name:
                    names[number] = name.strip()
                if kind == "fn":
                    current = number
                else:
                    called = number
            elif match := re.match(r"calls=(\d+) ", line):
                calls = int(match.group(1))
                if names.get(called) in ALLOCATORS and names.get(current) not in ALLOCATORS:
                    allocations[current] += calls
                next(lines)  # what the call cost, which its own function counts
            elif current and (match := re.match(r"[+\-*\d]+ (\d+)$", line)):
                own[current] += int(match.group(1))
    print(f"{requests} requests")
    print(f"{sum(own.values()) / requests:.0f} instructions per request; most of them in")
    for number, count in own.most_common(40):
        print(f"{count / requests:9.0f}  {names[number][:150]}")
    print(f"{sum(allocations.values()) / requests:.2f} allocations per request, asked for by")
    for number, count in allocations.most_common(40):
        if count / requests >= 0.005:
            print(f"{count / requests:9.2f}  {names[number][:150]}")


# What Rust's and C's allocation end in; the inner ones call each other.
ALLOCATORS = {
    "mi_malloc", "mi_malloc_aligned", "mi_zalloc_aligned", "mi_zalloc", "mi_realloc", "mi_realloc_aligned", "mi_calloc",
    "mi_heap_malloc", "mi_heap_malloc_aligned", "_mi_malloc_generic", "_mi_theap_malloc_zero",
    "malloc", "calloc", "realloc", "__rust_alloc", "__rust_realloc", "__rustc::__rust_alloc",
}

if __name__ == "__main__":
    main()
