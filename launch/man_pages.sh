#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: launch/man_pages.sh FOLDER PROGRAM...
# Writes FOLDER/NAME.1, a manual page in section 1, for each program. The text is that of its --help. Needs help2man.
# `cmake --install` calls this script if help2man is installed; without it, no manual pages are installed.
set -euo pipefail
if [[ ${1:-} == -h || ${1:-} == --help || $# -lt 2 ]]; then
  sed -n '3,5s/^# //p' "${BASH_SOURCE[0]}"
  [[ ${1:-} == -h || ${1:-} == --help ]]
  exit
fi
if ! command -v help2man >/dev/null; then
  echo "error: launch/man_pages.sh: help2man is not installed; install the package help2man" >&2
  exit 1
fi
out=$1
shift
mkdir -p "$out"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# help2man knows the headings "Usage:", "Options:" and "Examples:". The summary in the first line becomes the page's title.
write_page() {  # write_page PROGRAM
  local program name summary
  program=$(realpath "$1")
  name=$(basename "$program")
  "$program" --help >"$folder/help"
  summary=$(sed -n "1s/^$name - //p" "$folder/help")
  if [[ -z $summary ]]; then
    echo "error: launch/man_pages.sh: the first line of \`$name --help\` is not \"$name - SUMMARY\"" >&2
    return 1
  fi
  sed -i -e 1d -e 's/^usage: /Usage: /' -e 's/^example: /Examples:\n  /' -e 's/^exit codes: /Exit codes:\n  /' "$folder/help"
  cat >"$folder/$name" <<END
#!/bin/sh
case \$1 in
  --help) cat "$folder/help" ;;
  *) exec "$program" --version ;;
esac
END
  chmod +x "$folder/$name"
  # help2man takes the name from the version, which is the same for all programs.
  LC_ALL=C.UTF-8 help2man --locale=C.UTF-8 --no-info --name "$summary" --version-string "$("$program" --version | cut -d, -f1)" \
    --output "$folder/page" "$folder/$name"
  sed -e "s/^\.TH [^ ]*/.TH ${name^^}/" -e "s/^biqa \\\\- /$name \\\\- /" -e 's/^\.SS "Exit codes:"/.SH "EXIT STATUS"/' "$folder/page" >"$out/$name.1"
}
for program in "$@"; do write_page "$program"; done
