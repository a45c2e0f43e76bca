#!/bin/sh
# New passwords for the profile `cluster` of compose.yaml, as lines for its file `.env`.
set -eu
for name in POSTGRES_PASSWORD STORE_SECRET RAY_AUTH_TOKEN; do
    echo "$name=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')"
done
