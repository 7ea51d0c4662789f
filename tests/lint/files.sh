# SPDX-License-Identifier: Apache-2.0
# Sourced by the checks. Lists the project's own files: those that git does not ignore or, without git, all except build results.
project_files() {
  if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
    git ls-files --cached --others --exclude-standard | while IFS= read -r name; do [[ -f $name ]] && printf '%s\n' "$name"; done
  else
    find . \( -name .git -o -path ./build -o -path ./runs -o -name .cache -o -name __pycache__ \) -prune -o -type f -print | sed 's|^\./||'
  fi | LC_ALL=C sort
}
