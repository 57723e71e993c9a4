#!/bin/sh
# Install the programs that some tests need and skip without: scripts/test_tools.sh. For Debian, as root.
set -eu
missing=""
for pair in prometheus:prometheus promtool:prometheus strace:strace systemd-analyze:systemd; do
    command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair##*:}"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "not installed, because this is not root on Debian:$missing" >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086 # a list of packages
apt-get install -y -qq --no-install-recommends $missing
