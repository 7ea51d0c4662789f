// SPDX-License-Identifier: Apache-2.0
// The cases of op_cases.h.
#include <array>

#include "support/op_cases.h"

namespace biqa::testing {
namespace {

constexpr std::array<DType, 2> kTypes{DType::f32, DType::bf16};
/// Around the 16 floats of a vector of the CPU and the 32 threads of a warp.
constexpr std::array<std::int64_t, 8> kWidths{1, 7, 15, 16, 17, 33, 80, 300};

}  // namespace

const std::vector<RmsNormCase>& rms_norm_cases() {
  static const std::vector<RmsNormCase> cases = {
      {1, 1, DType::f32, 1e-6F, 1},     {3, 31, DType::f32, 1e-6F, 2},    {5, 32, DType::bf16, 1e-6F, 3},
      {5, 33, DType::f32, 1e-5F, 4},    {2, 1000, DType::bf16, 1e-6F, 5}, {4, 1024, DType::f32, 1e-6F, 6},
      {3, 1025, DType::f32, 1e-6F, 7},  {70, 64, DType::f32, 1.0F, 8},    {2, 3584, DType::bf16, 1e-6F, 9},
      {2, 8191, DType::f32, 1e-6F, 10},
  };
  return cases;
}

const std::vector<LinearCase>& linear_cases() {
  static const std::vector<LinearCase> cases = {
      {1, 1, 1, DType::f32, DType::f32, true, 1},       {1, 1, 1, DType::bf16, DType::bf16, false, 2},
      {3, 33, 17, DType::f32, DType::f32, false, 3},    {33, 65, 31, DType::f32, DType::f32, true, 4},
      {33, 65, 31, DType::bf16, DType::f32, true, 5},   {33, 65, 31, DType::bf16, DType::bf16, true, 6},
      {7, 1000, 70, DType::bf16, DType::f32, false, 7}, {2, 4099, 5, DType::f32, DType::f32, true, 8},
      {2, 4099, 5, DType::bf16, DType::bf16, false, 9}, {64, 128, 96, DType::bf16, DType::f32, true, 10},
      {1, 64, 2051, DType::f32, DType::f32, false, 11},
  };
  return cases;
}

const std::vector<LinearBackwardCase>& linear_backward_cases() {
  static const auto cases = [] {
    std::vector<LinearBackwardCase> all;
    for (const DType type : kTypes) {
      all.push_back({1, 1, 1, type, 1});
      all.push_back({5, 33, 17, type, 1});
      all.push_back({37, 20, 70, type, 1});
      all.push_back({66, 7, 301, type, 1});
      all.push_back({9, 300, 600, type, 1});
    }
    return all;
  }();
  return cases;
}

const std::vector<LinearBackwardCase>& linear_accumulate_cases() {
  static const std::vector<LinearBackwardCase> cases{{9, 40, 23, DType::f32, 1}, {9, 40, 23, DType::bf16, 1}};
  return cases;
}

// The row counts cross every border at which another kernel of a library may take over: 1, vectors of 16, 32, the steps into
// which the CPU's products are cut (64, 512), and beyond.
const std::vector<LinearBatchCase>& linear_batch_cases() {
  static const auto cases = [] {
    std::vector<LinearBatchCase> all;
    for (const DType type : kTypes) {
      all.push_back(
          {300, 70, 53, type, 5, {2, 5, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 90, 96, 129, 257, 300}});
      all.push_back({1100, 32, 48, type, 5, {2,  5,  8,  15,  16,  17,  31,  32,  33,  63,  64,
                                             65, 90, 96, 129, 257, 300, 511, 512, 513, 1100}});
      all.push_back({70, 1100, 40, type, 5, {2, 5, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65}});
    }
    return all;
  }();
  return cases;
}

const std::vector<LinearBatchCase>& linear_every_batch_cases() {
  static const std::vector<LinearBatchCase> cases{{300, 40, 48, DType::f32, 10, {}},
                                                  {300, 40, 48, DType::bf16, 10, {}}};
  return cases;
}

const std::vector<RmsNormBackwardCase>& rms_norm_backward_cases() {
  static const auto cases = [] {
    std::vector<RmsNormBackwardCase> all;
    all.reserve(kWidths.size());
    for (const std::int64_t n : kWidths) all.push_back({3, n, 1e-3F, 1});
    return all;
  }();
  return cases;
}

const std::vector<ElementsCase>& swiglu_cases() {
  static const auto cases = [] {
    std::vector<ElementsCase> all;
    for (const DType type : kTypes) {
      for (const std::int64_t n : kWidths) all.push_back({5, n, type, 1});
    }
    return all;
  }();
  return cases;
}

const std::vector<ElementsCase>& swiglu_backward_cases() {
  static const auto cases = [] {
    std::vector<ElementsCase> all;
    for (const DType type : kTypes) {
      for (const std::int64_t n : {1, 15, 16, 33, 80}) all.push_back({2, n, type, 1});
    }
    return all;
  }();
  return cases;
}

const std::vector<ElementsCase>& gelu_cases() {
  static const std::vector<ElementsCase> cases{{9, 33, DType::f32, 1}, {9, 33, DType::bf16, 1}};
  return cases;
}

const std::vector<RotateCase>& rotate_cases() {
  static const std::vector<RotateCase> cases{{37, 3, 2, 1},  {37, 3, 8, 1},  {37, 3, 16, 1}, {37, 3, 20, 1},
                                             {37, 3, 32, 1}, {37, 3, 80, 1}, {37, 3, 128, 1}};
  return cases;
}

const std::vector<SelectCase>& select_cases() {
  static const std::vector<SelectCase> cases{{70, 19, {5, 0, 5, 69}, {2, -0.5F, 0, 1}, 1}};
  return cases;
}

const std::vector<RowBatchCase>& row_batch_cases() {
  static const std::vector<RowBatchCase> cases{{300, 77, 33, DType::f32, 1, {2, 17, 32, 33, 64, 200, 300}},
                                               {300, 77, 33, DType::bf16, 1, {2, 17, 32, 33, 64, 200, 300}}};
  return cases;
}

const std::vector<LoraCase>& lora_cases() {
  static const auto cases = [] {
    std::vector<LoraCase> all;
    for (const DType type : kTypes) {
      for (const double rate : {0.0, 0.3}) {
        all.push_back({1, 1, 1, {{1, 1, 0, 2.0F}}, type, rate, 1});
        all.push_back({5, 33, 17, {{8, 17, 0, 0.5F}}, type, rate, 1});
        // A fused product of which the middle part is not adapted, ranks differ and one is above 16.
        all.push_back({37, 20, 60, {{3, 24, 0, 2.0F}, {20, 19, 41, 0.25F}}, type, rate, 1});
        // The same with widths that are multiples of 8.
        all.push_back({37, 24, 64, {{3, 24, 0, 2.0F}, {20, 24, 40, 0.25F}}, type, rate, 1});
        // And of 32.
        all.push_back({37, 64, 160, {{3, 96, 0, 2.0F}, {20, 32, 128, 0.25F}}, type, rate, 1});
      }
    }
    return all;
  }();
  return cases;
}

const std::vector<LoraCase>& lora_batch_cases() {
  static const auto cases = [] {
    std::vector<LoraCase> all;
    for (const DType type : kTypes) {
      for (const double rate : {0.0, 0.3}) {
        all.push_back({300,
                       40,
                       60,
                       {{3, 24, 0, 2.0F}, {20, 19, 41, 0.25F}},
                       type,
                       rate,
                       1,
                       {2, 7, 8, 9, 31, 33, 64, 300}});
        all.push_back(
            {130, 1096, 64, {{3, 24, 0, 2.0F}, {20, 24, 40, 0.25F}}, type, rate, 1, {2, 17, 64, 65, 130}});
        all.push_back({130,
                       96,
                       128,
                       {{3, 64, 0, 2.0F}, {20, 32, 96, 0.25F}},
                       type,
                       rate,
                       1,
                       {2, 15, 16, 17, 32, 33, 65, 127, 130}});
      }
    }
    return all;
  }();
  return cases;
}

const std::vector<AttentionCase>& attention_cases() {
  static const auto cases = [] {
    std::vector<AttentionCase> all;
    for (const HeadShape& shape :
         {HeadShape{1, 1, 2}, HeadShape{4, 2, 8}, HeadShape{2, 1, 16}, HeadShape{6, 2, 20},
          HeadShape{3, 3, 32}, HeadShape{2, 2, 80}, HeadShape{7, 1, 128}}) {
      for (const DType type : kTypes) {
        // Lengths around the 16 tokens of the CPU's pages; the third sequence goes on from 19 tokens.
        all.push_back({shape,
                       type,
                       1,
                       {{1, 0}, {16, 0}, {5, 19}, {35, 0}},
                       75,
                       {2, 3, 7, 8, 9, 33, 75},
                       {0, 1, 17, 33, 53},
                       37,
                       33});
      }
    }
    return all;
  }();
  return cases;
}

const std::vector<AttentionBackwardCase>& attention_backward_cases() {
  static const auto cases = [] {
    std::vector<AttentionBackwardCase> all;
    for (const HeadShape& shape :
         {HeadShape{4, 2, 8}, HeadShape{2, 1, 16}, HeadShape{3, 1, 20}, HeadShape{1, 1, 80}}) {
      for (const DType type : kTypes) {
        // A prompt longer than a page of the CPU with members of 3, 0 (a completion of one token) and 2 rows, and a prompt of
        // 2 rows with a member of 1.
        for (const bool last : {false, true})
          all.push_back({shape, type, last, 1, {{17, {3, 0, 2}}, {2, {1}}}});
      }
    }
    return all;
  }();
  return cases;
}

const std::vector<HeadCase>& head_cases() {
  static const auto cases = [] {
    std::vector<HeadCase> all;
    for (const DType type : kTypes) {
      all.push_back({1, 1, 1, 1.0F, type, 1});
      all.push_back({3, 8, 2, 0.7F, type, 1});
      all.push_back({5, 33, 97, 1.0F, type, 1});
      all.push_back({35, 12, 130, 1.7F, type, 1});
    }
    return all;
  }();
  return cases;
}

const std::vector<HeadCase>& head_batch_cases() {
  static const auto cases = [] {
    std::vector<HeadCase> all;
    all.reserve(kTypes.size());
    for (const DType type : kTypes)
      all.push_back({300, 40, 131, 0.9F, type, 1, {2, 15, 33, 64, 65, 130, 256, 300}});
    return all;
  }();
  return cases;
}

const std::vector<HeadCase>& head_not_finite_cases() {
  static const std::vector<HeadCase> cases{{9, 16, 70, 1.0F, DType::f32, 1},
                                           {9, 16, 70, 1.0F, DType::bf16, 1}};
  return cases;
}

std::ostream& operator<<(std::ostream& out, const RmsNormCase& c) {
  return out << c.rows << "x" << c.columns << " f32 to " << name_of(c.output) << ", epsilon " << c.epsilon
             << ", seed " << c.seed;
}

std::ostream& operator<<(std::ostream& out, const LinearCase& c) {
  return out << c.tokens << " tokens, " << c.in << " to " << c.out << ", " << name_of(c.input) << " to "
             << name_of(c.output) << (c.bias ? ", bias" : "") << ", seed " << c.seed;
}

std::ostream& operator<<(std::ostream& out, const LinearBackwardCase& c) {
  return out << c.tokens << " tokens, " << c.in << " to " << c.out << ", " << name_of(c.type) << ", seed "
             << c.seed;
}

std::ostream& operator<<(std::ostream& out, const LinearBatchCase& c) {
  return out << c.tokens << " tokens, " << c.in << " to " << c.out << ", " << name_of(c.type) << ", seed "
             << c.seed;
}

std::ostream& operator<<(std::ostream& out, const RmsNormBackwardCase& c) {
  return out << c.rows << "x" << c.columns << ", epsilon " << c.epsilon << ", seed " << c.seed;
}

std::ostream& operator<<(std::ostream& out, const ElementsCase& c) {
  return out << c.rows << "x" << c.columns << " " << name_of(c.output) << ", seed " << c.seed;
}

std::ostream& operator<<(std::ostream& out, const RotateCase& c) {
  return out << c.rows << " rows, " << c.heads << " heads of " << c.head_dim << ", seed " << c.seed;
}

std::ostream& operator<<(std::ostream& out, const SelectCase& c) {
  return out << c.selected.size() << " of " << c.rows << "x" << c.columns << ", seed " << c.seed;
}

std::ostream& operator<<(std::ostream& out, const RowBatchCase& c) {
  return out << c.rows << " rows, norm of " << c.norm_columns << ", SwiGLU to " << c.swiglu_columns << " "
             << name_of(c.output) << ", seed " << c.seed;
}

std::ostream& operator<<(std::ostream& out, const LoraCase& c) {
  return out << c.rows << " rows, " << c.in << " to " << c.total_out << ", " << c.parts.size() << " parts, "
             << name_of(c.type) << ", dropout " << c.rate << ", seed " << c.seed;
}

std::ostream& operator<<(std::ostream& out, const AttentionCase& c) {
  return out << c.shape.heads << "/" << c.shape.kv_heads << " heads of " << c.shape.head_dim << " "
             << name_of(c.type) << ", seed " << c.seed;
}

std::ostream& operator<<(std::ostream& out, const AttentionBackwardCase& c) {
  return out << c.shape.heads << "/" << c.shape.kv_heads << " heads of " << c.shape.head_dim << " "
             << name_of(c.type) << (c.last ? ", last queries" : "") << ", seed " << c.seed;
}

std::ostream& operator<<(std::ostream& out, const HeadCase& c) {
  return out << c.rows << "x" << c.hidden << ", vocabulary " << c.vocabulary << ", temperature "
             << c.temperature << " " << name_of(c.type) << ", seed " << c.seed;
}

}  // namespace biqa::testing
