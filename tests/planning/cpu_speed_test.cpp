// SPDX-License-Identifier: Apache-2.0
// What the measurement of a plan runs, and how operations are counted. Its times are not compared with anything.
#include "planning/cpu_speed.h"

#include <gtest/gtest.h>

#include <cmath>

#include "model/model_sizes.h"

namespace biqa {
namespace {

/// A network that is measured within milliseconds.
MemoryInputs small_inputs(DType dtype) {
  MemoryInputs in;
  TextConfig& text = in.model.text;
  text.hidden = 64;
  text.layers = 3;
  text.heads = 4;
  text.kv_heads = 2;
  text.head_dim = 16;
  text.intermediate = 128;
  text.vocab = 300;
  text.mrope_section = {2, 3, 3};
  VisionConfig& vision = in.model.vision;
  vision.hidden = 64;
  vision.depth = 3;
  vision.heads = 4;
  vision.intermediate = 96;
  vision.out_hidden = 64;
  vision.full_attention_blocks = {2};
  in.dtype = dtype;
  in.lora.rank = 4;
  in.prompt = 37;
  in.patch_rows = 48;
  in.images = 3;
  in.group = 4;
  in.new_tokens = 21;
  in.micro_batch_tokens = 500;
  return in;
}

void expect_speeds(const MemoryInputs& in) {
  const StepParts speed = measure_cpu_speed(in, {});
  for (const double part :
       {speed.vision, speed.prefill, speed.decode, speed.sample, speed.learn, speed.score}) {
    EXPECT_GT(part, 0);
    EXPECT_TRUE(std::isfinite(part));
  }
}

TEST(CpuSpeed, MeasuresEveryPart) {
  for (const DType dtype : {DType::f32, DType::bf16}) expect_speeds(small_inputs(dtype));
}

TEST(CpuSpeed, MeasuresRunsOfUnusualShapes) {
  MemoryInputs in = small_inputs(DType::f32);
  in.reference_pass = false;
  in.recompute = true;
  in.lora.dropout = 0.1;
  in.images = in.group = in.new_tokens = 1;
  expect_speeds(in);
  in = small_inputs(DType::f32);
  in.own_reference = true;
  in.prompt = 700;  // more than one pass of the measurement
  in.new_tokens = 400;
  in.micro_batch_tokens = 1;
  in.lora.targets = {Projection::q};
  expect_speeds(in);
}

TEST(CpuSpeed, LargeModelsAreCut) {
  ModelConfig model;
  model.text = small_inputs(DType::f32).model.text;
  model.text.layers = 40;
  EXPECT_EQ(measured_model(model, DType::f32).text.layers, 40) << "the caches could hold them";
  EXPECT_EQ(measured_model(model, DType::f32).text.vocab, 300);
  model.text.hidden = 2048;
  model.text.heads = 16;
  model.text.head_dim = 128;
  model.text.intermediate = 11008;
  model.text.vocab = 151936;
  const ModelConfig cut = measured_model(model, DType::bf16);
  EXPECT_EQ(cut.text.layers, 1);
  EXPECT_LT(cut.text.vocab, 20000);
  EXPECT_EQ(cut.text.hidden, 2048);
  EXPECT_LT(cut.vision.depth, model.vision.depth);
  EXPECT_EQ(cut.vision.full_attention_blocks.size(), 1U) << "one of both kinds of blocks";
}

TEST(StepParts, OperationsGrowWithTheLayers) {
  ModelConfig model = small_inputs(DType::f32).model;
  const DecoderFlop three(model);
  model.text.layers = 6;
  const DecoderFlop six(model);
  const PassRows rows = completion_rows(20, 37);
  EXPECT_DOUBLE_EQ(six.forward(rows), 2 * three.forward(rows));
  EXPECT_DOUBLE_EQ(six.sample(5), three.sample(5)) << "the head is no layer";
  const double qkv = 2 * static_cast<double>(Widths(model.text).qkv_weights()) * 20;
  EXPECT_DOUBLE_EQ(three.learn(rows, {true, false}), 3 * three.forward(rows) - qkv);
  EXPECT_DOUBLE_EQ(three.learn(rows, {false, true}), three.learn(rows, {true, false}));
  EXPECT_DOUBLE_EQ(three.learn(rows, {false, false}), 2 * three.forward(rows) - qkv);
  EXPECT_DOUBLE_EQ(three.score(5, {true, false}), 3 * three.sample(5));
}

TEST(StepParts, TheLastLayerSkipsRowsWithoutOutput) {
  ModelConfig model = small_inputs(DType::f32).model;
  const double keys = 10, rows = 20;
  const DecoderFlop three(model);
  model.text.layers = 2;
  const DecoderFlop two(model);
  const double qkv = 2 * static_cast<double>(Widths(model.text).qkv_weights()) * rows;
  EXPECT_DOUBLE_EQ(three.forward({rows, keys, 0}), two.forward({rows, keys, rows}) + qkv);
}

}  // namespace
}  // namespace biqa
