#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Computes one dumped training step again with transformers, PEFT and torch, and compares.

    check_step.py --model DIR DUMP.h5 [--tolerance 1e-4]

Reads prompts, pictures, completions, behaviour log-probabilities, rewards, adapters and AdamW moments from the dump;
computes advantages, log-probabilities, per-token losses, the gradient and the updated adapter in float32. Prints the
largest difference of each part relative to its largest value and exits 0 only if all are within the tolerance.
Needs torch, transformers, peft, h5py, numpy. Made for dumps with loss grpo, dr_grpo, dapo or bnpo, kl k3 and advantage
sum_then_normalise, with or without rslora, start adapter, trained stage 2, dropped groups and masked answers; dropout is
drawn from biqa's own counters, which only biqa_trace --step computes again.
"""

import argparse
import contextlib
import math
import sys

import h5py
import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import Qwen2_5_VLForConditionalGeneration


LOSSES = ("grpo", "dr_grpo", "dapo", "bnpo")


def load_policy(path, dump):
    base = Qwen2_5_VLForConditionalGeneration.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")
    keys = sorted(flatten(dump["adapter_before"]))
    targets = sorted({key.split(".")[-3] for key in keys})
    ranks = {key: dump["adapter_before"][key].shape[0] for key in keys if ".lora_A." in key}
    config = LoraConfig(r=int(dump.attrs["lora_rank"]), lora_alpha=float(dump.attrs["lora_alpha"]), lora_dropout=0.0,
                        use_rslora=bool(dump.attrs.get("lora_rslora", False)),
                        rank_pattern={key.split("base_model.model.")[1].split(".lora_A")[0]: r for key, r in ranks.items()
                                      if r != dump.attrs["lora_rank"]},
                        target_modules=rf".*language_model\.layers\.\d+\..*\.({'|'.join(targets)})")
    policy = get_peft_model(base, config)
    policy.eval()
    parameters = {n.replace(".default.", "."): p for n, p in policy.named_parameters() if "lora_" in n}
    assert sorted(parameters) == keys, "the dump's adapter is for another model"
    return policy, parameters


class Adapter:
    """Values and scales of one adapter of the dump, put into the policy's LoRA layers."""

    def __init__(self, group):
        self.values = flatten(group)
        self.scales = {k.split(".lora_A")[0]: float(group[k].attrs["scale"]) for k in self.values
                       if ".lora_A." in k and "scale" in group[k].attrs}

    def put(self, policy, parameters):
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(torch.tensor(self.values[name]))
        for name, module in policy.named_modules():
            if name in self.scales:
                module.scaling["default"] = self.scales[name]


def flatten(group):
    found = {}
    group.visititems(lambda name, node: found.__setitem__(name, node[()]) if isinstance(node, h5py.Dataset) else None)
    return found


def log_probabilities(policy, trajectory, stage, temperature, image_token):
    prompt, completion = trajectory[stage + "prompt_ids"][()], trajectory[stage + "completion_ids"][()]
    ids = torch.tensor(np.concatenate([prompt, completion]))[None]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": (ids == image_token).int()}
    if not stage and "pixel_values" in trajectory:
        inputs["pixel_values"] = torch.tensor(trajectory["pixel_values"][()])
        inputs["image_grid_thw"] = torch.tensor(trajectory["image_grid_thw"][()])
    logits = policy(**inputs).logits[0, len(prompt) - 1:-1] / temperature
    return logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dump")
    parser.add_argument("--model", required=True)
    parser.add_argument("--tolerance", type=float, default=1e-4)
    args = parser.parse_args()
    torch.set_num_threads(1)
    worst = {}

    def note(part, got, want, scale=None):
        got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
        error = np.abs(got - want).max() / max(scale if scale is not None else np.abs(want).max(), 1e-30)
        worst[part] = max(worst.get(part, 0.0), error if np.isfinite(error) else math.inf)

    with h5py.File(args.dump) as dump:
        a = dump.attrs
        if a["loss"] not in LOSSES or (a["kl"], a["advantage"]) != ("k3", "sum_then_normalise"):
            sys.exit(f"error: {args.dump}: made for loss {', '.join(LOSSES)}, kl k3, advantage sum_then_normalise")
        if a.get("lora_dropout", 0) > 0:
            sys.exit(f"error: {args.dump}: its dropout can only be drawn again by biqa_trace --step")
        if any(np.isfinite(a.get(name, np.nan)) for name in ("ratio_cap", "off_policy_mask")):
            sys.exit(f"error: {args.dump}: ratio_cap and off_policy_mask are not computed here")
        policy, parameters = load_policy(args.model, dump)
        start = Adapter(dump["adapter_before"])
        reference_adapter = Adapter(dump["reference_adapter"]) if "reference_adapter" in dump else None
        temperature, image_token = float(a["temperature"]), policy.config.image_token_id
        trajectories = [dump["trajectories"][k] for k in sorted(dump["trajectories"])]
        rewards = {}
        for t in trajectories:
            rewards.setdefault(int(t.attrs["group"]), []).append(float(t.attrs["reward"]))
        all_rewards = np.array([x for group in rewards.values() for x in group])
        # Every answer that is learned from: its trajectory and the prefix of its stage's datasets.
        answers = [(t, "") for t in trajectories]
        if a.get("stage2_trained", False):
            answers += [(t, "stage2_") for t in trajectories if len(t["stage2_completion_ids"])]
        references = {}
        if reference_adapter:
            reference_adapter.put(policy, parameters)
        for t, stage in answers:
            with torch.no_grad(), contextlib.nullcontext() if reference_adapter else policy.disable_adapter():
                references[t.name, stage] = log_probabilities(policy, t, stage, temperature, image_token)
        start.put(policy, parameters)
        kept = [(t, stage) for t, stage in answers if not t.attrs.get("dropped", False)]
        sequences, tokens = len(kept), sum(float(t[stage + "mask"][()].sum()) for t, stage in kept)
        total = 0.0
        largest_loss = max(max(float(np.abs(t[stage + "token_loss"][()]).max()) for t, stage in answers), 1e-6)
        for t, stage in answers:
            group = np.array(rewards[int(t.attrs["group"])])
            scale = {"group": group.std(ddof=1) + 1e-4, "batch": all_rewards.std(ddof=1) + 1e-4,
                     "none": 1.0}[a.get("advantage_scale", "group")]
            advantage = (float(t.attrs["reward"]) - group.mean()) / scale
            note("advantage", advantage, float(t.attrs["advantage"]), 1.0)
            columns = sum(float(a.get(f"weight_{c}", 1.0)) * float(t.attrs[f"reward_{c}"])
                          for c in ("prediction", "consistency", "reasoning", "format"))
            note("reward", columns, float(t.attrs["reward"]), 1.0)
            if a.get("credit", "whole") == "parts":  # the advantages of tokens and of the second stage are taken from the dump
                advantage = (float(t.attrs["stage2_advantage"]) if stage else
                             torch.tensor(t["token_advantage"][()]))
            reference = references[t.name, stage]
            mask = torch.tensor(t[stage + "mask"][()])
            count = float(mask.sum())
            with contextlib.nullcontext() if count else torch.no_grad():
                logp = log_probabilities(policy, t, stage, temperature, image_token)
            ratio = (logp - torch.tensor(t[stage + "behaviour_logp"][()])).exp()
            clipped = ratio.clamp(1 - float(a["clip_low"]), 1 + float(a["clip_high"]))
            gap = reference - logp
            token = -torch.minimum(ratio * advantage, clipped * advantage) + float(a["beta"]) * (gap.exp() - gap - 1)
            weight = {"grpo": 1 / (sequences * max(count, 1.0)), "dr_grpo": 1 / (sequences * float(a.get("max_new_tokens", 1)))}
            loss = (token * mask).sum() * weight.get(a["loss"], 1 / max(tokens, 1.0))
            if count:
                loss.backward()
                total += float(loss.detach())
            note(stage + "learner_logp", logp.detach().numpy(), t[stage + "learner_logp"][()])
            note(stage + "behaviour_logp", logp.detach().numpy(), t[stage + "behaviour_logp"][()])
            if stage + "reference_logp" in t:
                note(stage + "reference_logp", reference.numpy(), t[stage + "reference_logp"][()])
            note(stage + "token_loss", (token * mask).detach().numpy(), t[stage + "token_loss"][()], largest_loss)
        # A loss near zero is a difference of large terms: its scale is that of a token's loss.
        note("loss", total, float(a["loss_value"]), largest_loss)
        gradient = flatten(dump["gradient"])
        scale = max(np.abs(g).max() for g in gradient.values())
        for name, parameter in parameters.items():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            note("gradient", parameter.grad.numpy(), gradient[name], scale)
        norm = math.sqrt(sum(float((p.grad.double() ** 2).sum()) for p in parameters.values()))
        note("grad_norm", norm, float(a["grad_norm"]))

        m, v, after = (flatten(dump[part]) for part in ("adam_m_before", "adam_v_before", "adapter_after"))
        optimizer = torch.optim.AdamW(parameters.values(), lr=float(a["lr"]), betas=(float(a["beta1"]), float(a["beta2"])),
                                      eps=float(a["eps"]), weight_decay=float(a["weight_decay"]), foreach=False)
        clip = min(1.0, float(a["max_grad_norm"]) / (norm + 1e-6))
        for name, parameter in parameters.items():
            parameter.grad.mul_(clip)
            optimizer.state[parameter] = {"step": torch.tensor(float(a["optimizer_steps"])), "exp_avg": torch.tensor(m[name]),
                                          "exp_avg_sq": torch.tensor(v[name])}
        optimizer.step()
        largest = max(np.abs(x).max() for x in after.values())
        for name, parameter in parameters.items():
            # AdamW's early steps are the gradient's sign times lr: where an entry of the gradient is rounding noise, so is its
            # sign. There the difference counts by the entry's usual size as a share of the largest gradient, in full from 1 %.
            correction = 1 - float(a["beta2"]) ** float(a["optimizer_steps"]) if a["optimizer_steps"] > 0 else 1.0
            usual = np.maximum(np.abs(gradient[name]), np.sqrt(v[name] / correction))
            weight = np.minimum(1.0, usual / max(0.01 * scale, 1e-30))
            note("adapter_after", weight * parameter.detach().numpy(), weight * after[name], largest)
    for part, error in worst.items():
        print(f"{part:<20} {error:.2e} {'ok' if error <= args.tolerance else 'BEYOND ' + format(args.tolerance, 'g')}")
    fine = all(error <= args.tolerance for error in worst.values())
    print(f"step: {'agrees' if fine else 'differs'} ({len(worst)} parts)")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
