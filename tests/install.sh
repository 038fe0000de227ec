#!/bin/sh
# install.sh WHAT PROGRAM ... -- PACKAGE ...: install Debian's packages where a program is missing; where that is not allowed say so,
# and the tests that want them are skipped.
PATH=$PATH:/usr/sbin
what=$1 missing=
shift
while [ "$1" != -- ]; do
    command -v "$1" >/dev/null || missing="$missing $1"
    shift
done
shift
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    set -e
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -qq --no-install-recommends "$@"
    exit
fi
echo "$what:$missing not there and not to be installed here (Debian's $*, as root): the tests are skipped" >&2
