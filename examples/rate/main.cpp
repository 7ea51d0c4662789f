// SPDX-License-Identifier: Apache-2.0
// usage: rate CONFIG IMAGE: prints what a configuration's model, without an adapter, writes about an image.
#include <cstdio>

#include "config/config.h"
#include "policy/policy.h"

int main(int argc, char** argv) try {
  if (argc != 3) biqa::fail_usage("usage: rate CONFIG IMAGE");
  const biqa::Config config = biqa::load_config(argv[1]);
  const biqa::Policy policy = biqa::Policy::open({.path = config.model.path});
  biqa::Engine engine(*policy.model, {});
  biqa::Rollout rollout(*policy.model, *policy.tokenizer, policy.chat, engine);
  biqa::RolloutOptions options{.group_size = 1, .prompts = config.prompts.texts};
  const biqa::RolloutSample image{argv[2], 0, {}, policy.pictures->encode(argv[2])};
  rollout.run(std::span(&image, 1), options,
              [](biqa::Group&& group) { std::puts(group.members.front().text.c_str()); });
} catch (const std::exception& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
