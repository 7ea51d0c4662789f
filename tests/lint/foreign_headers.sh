#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: foreign_headers.sh PROJECT. Refuses the include of a third-party header under src/, except in the files that wrap
# that library.
set -euo pipefail
cd "${1:?usage: foreign_headers.sh PROJECT}"

find src -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' | LC_ALL=C sort | xargs awk '
  # Which files (pattern of the path) may include which headers (pattern).
  function allow(headers, files) { header[++rules] = "^(" headers ")"; file[rules] = "^src/(" files ")" }
  BEGIN {
    implementation = ".*\\.cpp$"
    allow("cminpack", "core/" implementation)
    allow("hdf5|H5", "io/hdf5/.*")
    allow("yaml-cpp/|jpeglib|png\\.h|tiff|webp/|zlib\\.h|stb|xxhash|zip\\.h|pugixml|matio", "io/" implementation)
    allow("nlohmann/json_fwd", "io/.*")
    allow("nlohmann/", "(io|data|datasets|model|semantic|actor|reward|learner|run|evaluation|report|app)/" implementation)
    allow("utf8proc", "data/" implementation)
    allow("mpi\\.h", "comm/mpi/.*")
    allow("oneapi/|dnnl", "ops/cpu/.*")
    allow("omp\\.h|immintrin", "(ops|io|data)/.*")
    allow("cuda|cublas|cudnn", "(tensor|ops)/cuda/.*|comm/nccl/.*")
    allow("nccl", "comm/nccl/" implementation)
    allow("gflags/", "app/" implementation)
  }
  /^[ \t]*#[ \t]*include[ \t]*</ {
    name = $0
    sub(/^[^<]*</, "", name)
    sub(/>.*/, "", name)
    known = permitted = 0
    for (i = 1; i <= rules; ++i) {
      if (name ~ header[i]) { known = 1; if (FILENAME ~ file[i]) permitted = 1 }
    }
    if (known && !permitted) { printf "%s:%d: <%s> does not belong here\n", FILENAME, FNR, name; bad = 1 }
  }
  END { exit bad }'
