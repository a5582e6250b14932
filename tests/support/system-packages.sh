#!/bin/sh
# The servers that the tests run for real. Installs only what is missing; says what to do where it cannot.
set -eu
wanted=""
command -v redis-server >/dev/null || wanted="$wanted redis-server"
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || wanted="$wanted postgresql"
command -v promtool >/dev/null || wanted="$wanted prometheus"
command -v kubectl >/dev/null || wanted="$wanted kubernetes-client"
command -v wrk >/dev/null || wanted="$wanted wrk"
[ -z "$wanted" ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "These are missing for the tests:$wanted. Install them with your system's package manager." >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086  # a list of words
apt-get install -y -qq --no-install-recommends $wanted >/dev/null
