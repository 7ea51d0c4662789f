#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: spdx.sh PROJECT. Refuses a source or script whose first line (second line after #!) is not the SPDX licence line.
set -euo pipefail
cd "${1:?usage: spdx.sh PROJECT}"
source "$(dirname "${BASH_SOURCE[0]}")/files.sh"

project_files | grep -E '\.(h|cpp|cu|cuh|sh|py)$' | while IFS= read -r name; do
  first=$(head -n 2 "$name" | grep -v '^#!' | head -n 1 || true)
  [[ $first =~ ^(//|#)\ SPDX-License-Identifier:\ Apache-2\.0$ ]] && continue
  echo "$name:1: must begin with the line SPDX-License-Identifier: Apache-2.0, as a comment"
done | { ! grep . ; }
