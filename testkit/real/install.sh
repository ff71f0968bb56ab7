#!/bin/sh
# Brings the official clients and servers that the tests drive into this directory: node_modules and .venv.
# Does nothing when they are there and up to date. Needs npm, python3 and their package registries.
set -eu
cd "$(dirname "$0")"

# Each part keeps a copy of the list it was made from, written last: an install that broke off is made again.
if ! cmp -s package-lock.json node_modules/.made-from; then
    npm ci --ignore-scripts --no-progress
    cp package-lock.json node_modules/.made-from
fi

if ! cmp -s requirements.txt .venv/.made-from; then
    rm -rf .venv
    python3 -m venv .venv
    .venv/bin/pip install --quiet --disable-pip-version-check --no-deps --requirement requirements.txt
    cp requirements.txt .venv/.made-from
fi
