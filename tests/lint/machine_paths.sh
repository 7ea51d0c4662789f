#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: machine_paths.sh PROJECT. Refuses paths in the project's text files that exist only on somebody's own machine.
set -euo pipefail
cd "${1:?usage: machine_paths.sh PROJECT}"
source "$(dirname "${BASH_SOURCE[0]}")/files.sh"

# The brackets keep this file from finding itself.
project_files | tr '\n' '\0' |
  { ! xargs -0 grep -InE '(^|[^A-Za-z0-9_./~$}-])/([w]ork|[r]oot|[h]ome|[U]sers|opt/[r]ef|[t]mp/(build|brief))/' -- /dev/null; }
