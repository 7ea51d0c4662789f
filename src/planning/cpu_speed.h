// SPDX-License-Identifier: Apache-2.0
// Measures how fast this machine computes the parts of a step. It runs a network of the model's shape with random weights
// and few layers, and gives it batches like those of the run. So the speeds include everything that a pass does:
// products, attention, adapter, norms, sampling, and the memory that each of them reads.
#pragma once

#include "ops/decoder.h"
#include "planning/memory_plan.h"
#include "planning/step_parts.h"

namespace biqa {

/// Operations per second of each part on the CPU, with `inputs.threads` threads. Takes 2 to 7 seconds for
/// models of up to 3 billion parameters on two cores of an AMD EPYC with AVX2. With wider layers it takes longer: each part
/// runs at least twice.
/// `sampling`: how tokens are chosen.
StepParts measure_cpu_speed(const MemoryInputs& inputs, const SampleRequest& sampling);

/// The model that is measured. It has the same widths, but fewer layers, vision blocks and vocabulary tokens: only enough
/// that their weights do not fit into a processor's caches.
ModelConfig measured_model(const ModelConfig& model, DType compute);

}  // namespace biqa
