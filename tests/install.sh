#!/bin/sh
# install.sh GROUP ...: as root, install Debian's packages of each group that something is missing of. Where that may not or
# cannot be done, say so and end well: the tests that need them are skipped.
PATH=$PATH:/usr/sbin
missing= packages= tests=

# want WHAT THING ... -- PACKAGE ...: a thing is a program, or a file where it has a slash.
want() {
    what=$1 lacking=
    shift
    while [ "$1" != -- ]; do
        case $1 in
        */*) [ -e "$1" ] ;;
        *) command -v "$1" >/dev/null ;;
        esac || lacking="$lacking $1"
        shift
    done
    shift
    [ -n "$lacking" ] || return 0
    missing="$missing$lacking" packages="$packages $*" tests="$tests${tests:+, }$what"
}

for group; do
    case $group in
    browser) want "reports in a browser" chromium -- chromium fonts-liberation ;;
    compiler)
        headers=$("${PYTHON:-python3}" -c 'import sysconfig; print(sysconfig.get_path("include"))')
        want "compiled layers, optimizer state on a disk" c++ g++ "$headers/Python.h" /usr/include/libaio.h -- \
            g++ libaio-dev python3-dev
        ;;
    slurm) want "jobs of a Slurm" munged slurmctld slurmd srun -- slurm-wlm munge ;;
    *) echo "install.sh: no group $group; there are browser, compiler, slurm" >&2 && exit 2 ;;
    esac
done
[ -n "$packages" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing Debian's$packages"
    export DEBIAN_FRONTEND=noninteractive
    # A machine without a network is not waited for.
    apt="timeout 900 apt-get -qq -o Acquire::Retries=1 -o Acquire::http::Timeout=20 -o DPkg::Lock::Timeout=120"
    said=$(mktemp)
    # shellcheck disable=SC2086
    { $apt update && $apt install --no-install-recommends $packages; } >"$said" 2>&1
    status=$?
    reason="apt-get could not install them: $(grep -m 1 -E '^(E|W|Err)' "$said")"
    rm -f "$said"
    [ "$status" != 0 ] || exit 0
else
    reason="they are installed here by root with apt-get alone"
fi
echo "missing:$missing (Debian's$packages): $reason; tests are skipped: $tests" >&2
