#!/bin/sh
# Make .venv with the pinned packages: choose an interpreter, check what is already there, install.
#
#   tools/environment.sh [PYTHON]
#
# Without PYTHON, an existing .venv keeps its interpreter; a new one gets the newest supported Python that runs.
set -u
cd "$(dirname "$0")/.." || exit 1

supported="3.13 3.12 3.11"
in_words="Python 3.11, 3.12 or 3.13"
wanted=${1:-}
stamp=.venv/installed

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

# Print major.minor of an interpreter; nothing if it does not run.
version_of() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

is_supported() {
    case " $supported " in *" $1 "*) [ -n "$1" ] ;; *) false ;; esac
}

# Print the newest supported interpreter that runs. A shim of a version manager may be on the PATH and fail.
newest_python() {
    for version in $supported; do
        for name in "python$version" python3 python; do
            path=$(command -v "$name") || continue
            if [ "$(version_of "$path")" = "$version" ]; then
                printf '%s\n' "$path"
                return
            fi
        done
    done
    return 1
}

existing=
if [ -e .venv ]; then
    existing=$(version_of .venv/bin/python) ||
        fail "The Python of .venv no longer runs. Remove the environment with \`make clean\` and run this again."
    is_supported "$existing" ||
        fail ".venv was made by Python $existing; the project needs $in_words. Remove it with \`make clean\` and run this again."
    grep -qF "$PWD/.venv" .venv/bin/activate ||
        fail ".venv was made in another folder, so its commands point there. Remove it with \`make clean\` and run this again."
fi

if [ -n "$wanted" ]; then
    version=$(version_of "$wanted") || fail "PYTHON=$wanted does not run. Name $in_words, such as PYTHON=/usr/bin/python3.13."
    is_supported "$version" || fail "PYTHON=$wanted is Python $version; the project needs $in_words."
    [ -z "$existing" ] || [ "$existing" = "$version" ] ||
        fail ".venv was made by Python $existing, but PYTHON=$wanted is $version. Run \`make clean\` first."
fi

if [ -e "$stamp" ] && [ -z "$(find pyproject.toml constraints.txt -newer "$stamp")" ]; then
    exit 0
fi

if [ -n "$existing" ]; then
    python=.venv/bin/python
    echo "Using the Python $existing of .venv."
else
    python=$wanted
    [ -n "$python" ] || python=$(newest_python) || fail \
        "No supported Python runs here: the project needs $in_words." \
        "Install one: \`apt install python3 python3-venv\` (Debian, Ubuntu), \`brew install python@3.13\` (macOS), or" \
        "\`pyenv install 3.13\`; or name one with \`make setup PYTHON=/path/to/python3.13\`."
    echo "Using $python (Python $(version_of "$python"))."
    "$python" -m venv .venv || {
        rm -rf .venv
        fail "$python cannot make a virtual environment (see above). On Debian and Ubuntu: \`apt install python3-venv\`."
    }
fi

.venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,onnx,openvino,s3,search]' ||
    fail "The pinned packages could not be installed for Python $(version_of .venv/bin/python); pip's message above names the" \
        "package. Check the network and the package index, or choose another Python: \`make clean\`, then" \
        "\`make setup PYTHON=python3.12\`. Run again, the installation continues."
# pip compiles the packages, but not an editable project: with PYTHONDONTWRITEBYTECODE, each command would compile it again.
.venv/bin/python -m compileall -q pipeline stages
touch "$stamp"
