#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: launch/processors.sh
# Prints how many processors a program that is started here may use. These are the processors of the affinity mask (set by
# taskset or a batch system), limited by the control groups (containers). src/core/processors.h has the same rules.
set -euo pipefail

case ${1:-} in
  -h | --help) sed -n '3,5s/^# \?//p' "${BASH_SOURCE[0]}"; exit 0 ;;
esac
root=${1:-}  # stands for / in tests

# nproc counts the processors of the mask. It also obeys OMP_NUM_THREADS, which limits the threads of one process.
count=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc 2>/dev/null || echo 1)

take() {  # take QUOTA PERIOD: no more than these microseconds per period
  [[ ${1:-} =~ ^[0-9]+$ && ${2:-} =~ ^[0-9]+$ ]] && (($1 > 0 && $2 > 0)) || return 0
  local granted=$(($1 / $2))
  ((granted > 0)) || granted=1
  ((granted >= count)) || count=$granted
}
look() {  # look FOLDER: the limits of one group
  local quota='' period=''
  if [[ -r $1/cpu.max ]]; then read -r quota period <"$1/cpu.max" || true; fi
  take "$quota" "$period"
  quota='' period=''
  if [[ -r $1/cpu.cfs_quota_us ]]; then read -r quota <"$1/cpu.cfs_quota_us" || true; fi
  if [[ -r $1/cpu.cfs_period_us ]]; then read -r period <"$1/cpu.cfs_period_us" || true; fi
  take "$quota" "$period"
}

# The control group of this process and its parents.
if [[ -r $root/proc/self/cgroup && -r $root/proc/self/mountinfo ]]; then
  while read -r _ _ _ top mount _ rest; do
    read -r type _ options <<<"${rest#*- }"
    case $type,$options, in
      cgroup2,*) controllers='' ;;
      cgroup,*,cpu,*) controllers='(.*,)?cpu(,.*)?' ;;
      *) continue ;;
    esac
    group=$(sed -nE "s|^[0-9]+:$controllers:||p" "$root/proc/self/cgroup" | head -n 1)
    top=${top%/}
    case $group in
      *..*) group='' ;;
      "$top"/*) group=${group#"$top"} ;;
      *) group='' ;;
    esac
    group=${group%/}
    look "$root$mount$group"
    while [[ -n $group ]]; do
      group=${group%/*}
      look "$root$mount$group"
    done
  done <"$root/proc/self/mountinfo"
fi
echo "$count"
