"""A DNS server for the pods: it reads {name: [addresses]} from a file again for each question, and knows no other name.

    names.py ADDRESS FILE
"""

import json
import socket
import struct
import sys

A, TTL_SECONDS = 1, 5


def question(packet):
    """(name, type, the question's bytes)"""
    labels, at = [], 12
    while packet[at]:
        labels.append(packet[at + 1 : at + 1 + packet[at]].decode())
        at += packet[at] + 1
    (kind,) = struct.unpack("!H", packet[at + 1 : at + 3])
    return ".".join(labels).lower(), kind, packet[12 : at + 5]


def answer(packet, zone):
    name, kind, asked = question(packet)
    known = name in zone
    addresses = zone.get(name, []) if kind == A else []
    flags = 0x8180 if known else 0x8183
    head = packet[:2] + struct.pack("!HHHHH", flags, 1, len(addresses), 0, 0)
    records = b"".join(struct.pack("!HHHIH", 0xC00C, A, 1, TTL_SECONDS, 4) + socket.inet_aton(one) for one in addresses)
    return head + asked + records


def main():
    address, path = sys.argv[1:]
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind((address, 53))
    print("ready", flush=True)
    while True:
        packet, client = listener.recvfrom(4096)
        with open(path) as file:
            zone = json.load(file)
        print(question(packet)[:2], flush=True)
        listener.sendto(answer(packet, zone), client)


main()
