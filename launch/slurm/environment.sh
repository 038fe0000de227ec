# Which Python runs, with which code; sourced with `root` set to the repository.

root=$(cd "$root" && pwd)
# The repository's own environment, where `make` has put one; PYTHON=... names another.
if [ -z "${PYTHON:-}" ]; then
    PYTHON=python
    [ ! -x "$root/.venv/bin/python" ] || PYTHON=$root/.venv/bin/python
fi
export PYTHON PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
