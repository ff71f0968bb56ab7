"""Reads a callgrind file: FILE REQUESTS. Prints instructions and allocations per request, and where both come from."""

import collections
import re
import sys


def main():
    path, requests = sys.argv[1], int(sys.argv[2])
    own, allocations = collections.Counter(), collections.Counter()
    names, current, called = {}, None, None
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
                if allocates(names.get(called, "")) and not is_allocator(names[current]):
                    allocations[names[current]] += int(match.group(1))
                next(lines)  # what the call cost, which its own function counts
            elif current and (match := re.match(r"[+\-*\d]+ (\d+)$", line)):
                own[names[current].split("'")[0]] += int(match.group(1))
    print(f"{requests} requests")
    print(f"{sum(own.values()) / requests:.0f} instructions per request; most of them in")
    for name, count in own.most_common(30):
        print(f"{count / requests:9.0f}  {name[:150]}")
    print(f"{sum(allocations.values()) / requests:.2f} allocations per request, asked for by")
    for name, count in allocations.most_common(60):
        if count / requests >= 0.01:
            # A function and who called it, apart by a quote.
            print(f"{count / requests:9.2f}  {' < '.join(part[:80] for part in name.split(QUOTE)[:4])}")


def allocates(name):
    return is_allocator(name) and any(word in name for word in ("malloc", "zalloc", "realloc", "calloc"))


def is_allocator(name):
    """mimalloc's functions, which call each other."""
    return re.match(r"_?mi_", name) is not None


QUOTE = "'"

if __name__ == "__main__":
    main()
