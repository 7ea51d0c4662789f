#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: layers.sh PROJECT. Refuses an include under src/ that breaks the order of the layers (docs/architecture.md), and an
# include of another folder's private part.
set -euo pipefail
cd "${1:?usage: layers.sh PROJECT}"

find src -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' | LC_ALL=C sort | xargs awk '
  BEGIN {
    allowed["core"] = ""
    allowed["tensor"] = "core"
    allowed["ops"] = allowed["io"] = allowed["comm"] = "core tensor"
    allowed["data"] = "core tensor io"
    allowed["model"] = "core tensor ops io"
    allowed["semantic"] = "core tensor ops io data"
    allowed["actor"] = "core tensor ops io comm data model"
    allowed["reward"] = allowed["learner"] = allowed["actor"]
    allowed["datasets"] = "core tensor io data"
    allowed["run"] = "core tensor io data reward"
    allowed["config"] = allowed["actor"] " actor reward learner"
    allowed["policy"] = allowed["actor"] " actor reward learner"
    allowed["evaluation"] = allowed["policy"] " run config policy semantic"
    allowed["training"] = allowed["evaluation"] " evaluation"
    allowed["planning"] = allowed["training"] " training"
    allowed["report"] = allowed["evaluation"] " evaluation"
    allowed["app"] = allowed["planning"] " planning report datasets"
  }
  function refuse(why) { printf "%s:%d: %s\n", FILENAME, FNR, why; bad = 1 }
  FNR == 1 {
    split(FILENAME, parts, "/")
    layer = parts[2]
    if (!(layer in allowed)) refuse("src/" layer " is no layer")
  }
  /^[ \t]*#[ \t]*include[ \t]*"/ {
    path = $0
    sub(/^[^"]*"/, "", path)
    sub(/".*/, "", path)
    slash = index(path, "/")
    if (path ~ /(^|\/)\.\.?\//) { refuse("name " path " from src/"); next }
    folder = substr(path, 1, slash - 1)
    if (slash == 0 || !(folder in allowed)) { refuse(path " is not LAYER/FILE of a layer"); next }
    if (folder == layer) next
    if (index(" " allowed[layer] " ", " " folder " ") == 0) refuse(layer " may not include " path)
    # The CUDA folders of ops and comm share the runtime owners of tensor/cuda.
    cuda_side = FILENAME ~ /^src\/(ops\/cuda|comm\/nccl)\//
    if (path ~ /^(tensor\/cuda|io\/hdf5|ops\/cpu|ops\/cuda|comm\/local|comm\/thread|comm\/mpi|comm\/nccl)\// &&
        path != "ops/cuda/device.h" && !(cuda_side && path ~ /^tensor\/cuda\//)) refuse(path " is private to src/" folder)
  }
  END { exit bad }'
