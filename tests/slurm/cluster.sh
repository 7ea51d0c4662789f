# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034
# Sourced by the tests. Starts a private Slurm on this machine: two nodes n1 and n2, with all files in one folder, on
# loopback.
#
#   start_cluster FOLDER   starts munged, slurmctld and two slurmd; returns 1 with the reason in `cluster_problem`
#   stop_cluster           ends the cluster and its jobs; safe to call at any point
#   node_processes NODE    prints process ids of the node's daemon, step managers, launchers and ranks
#   start_node NODE        starts the daemon of a node
# The functions signal only processes whose environment or arguments contain the cluster's folder.

cluster_folder=''
cluster_problem=''

free_ports() {  # free_ports COUNT: that many ports nobody listens on
  local port count=$1 taken
  taken=$(cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | awk '$4 == "0A" { print $2 }' | sed 's/.*://')
  while ((count > 0)); do
    port=$((20000 + RANDOM % 12000))
    grep -qix "$(printf '%04X' "$port")" <<<"$taken" && continue
    taken+=$'\n'$(printf '%04X' "$port")
    echo "$port"
    count=$((count - 1))
  done
}

write_slurm_conf() {
  local host ports=() user
  host=$(hostname -s)
  user=$(id -un)
  mapfile -t ports < <(free_ports 3)
  cat >"$cluster_folder/slurm.conf" <<CONF
ClusterName=biqa
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$user
SlurmdUser=$user
SlurmctldPort=${ports[0]}
AuthType=auth/munge
# A requeued job waits for its old credentials to expire, two minutes unless said otherwise.
AuthInfo=socket=$cluster_folder/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=$cluster_folder/state
SlurmdSpoolDir=$cluster_folder/spool.%n
SlurmctldPidFile=$cluster_folder/slurmctld.pid
SlurmdPidFile=$cluster_folder/slurmd.%n.pid
SlurmctldLogFile=$cluster_folder/slurmctld.log
SlurmdLogFile=$cluster_folder/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2
ReturnToService=2
SlurmdTimeout=10
KillWait=15
InactiveLimit=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
# Preempted jobs get the signal of --signal, so that the batch script hears of it (PreemptParameters=send_user_signal in
# later versions).
SlurmctldParameters=preempt_send_user_signal
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=${ports[1]} CPUs=2 State=UNKNOWN
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=${ports[2]} CPUs=2 State=UNKNOWN
PartitionName=normal Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=scavenge Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=0
PartitionName=urgent Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=off
CONF
}

start_node() {
  slurmd -N "$1" >"$cluster_folder/slurmd.$1.out" 2>&1
}

start_cluster() {
  cluster_folder=$1
  mkdir -p "$cluster_folder/state"
  chmod 755 "$cluster_folder"
  write_slurm_conf
  # What every process of this cluster is known by.
  export SLURM_CONF=$cluster_folder/slurm.conf
  head -c 128 /dev/urandom >"$cluster_folder/munge.key"
  chmod 600 "$cluster_folder/munge.key"
  if ! munged --num-threads=2 --key-file="$cluster_folder/munge.key" --socket="$cluster_folder/munge.socket" \
    --pid-file="$cluster_folder/munged.pid" --log-file="$cluster_folder/munged.log" --seed-file="$cluster_folder/munged.seed" \
    >"$cluster_folder/munged.out" 2>&1; then
    cluster_problem="munged: $(tail -n 1 "$cluster_folder/munged.out")"
    return 1
  fi
  if ! slurmctld >"$cluster_folder/slurmctld.out" 2>&1; then
    cluster_problem="slurmctld: $(grep -i error "$cluster_folder/slurmctld.out" "$cluster_folder/slurmctld.log" | tail -n 1)"
    return 1
  fi
  local node
  for node in n1 n2; do
    start_node "$node" && continue
    cluster_problem="slurmd $node: $(grep -i error "$cluster_folder/slurmd.$node.out" "$cluster_folder/slurmd.$node.log" | tail -n 1)"
    return 1
  done
  for ((i = 0; i < 120; ++i)); do
    [[ $(sinfo --noheader --Node --partition=normal --format=%T 2>/dev/null | grep -c '^idle$') == 2 ]] && return 0
    sleep 0.5
  done
  cluster_problem="the nodes are not idle after 60 s: $(sinfo --noheader --Node --long 2>&1 | tail -n 1)"
  return 1
}

# Every process of this cluster: daemons, step managers, launchers, ranks.
cluster_processes() {
  local process
  for process in /proc/[0-9]*; do
    [[ ${process#/proc/} == "$BASHPID" || ${process#/proc/} == "$$" ]] && continue
    if tr '\0' '\n' 2>/dev/null <"$process/environ" | grep -qxF "SLURM_CONF=$cluster_folder/slurm.conf" ||
      tr '\0' ' ' 2>/dev/null <"$process/cmdline" | grep -qF "$cluster_folder/"; then
      echo "${process#/proc/}"
    fi
  done
}

# What runs on a node, without its slurmd: launchers and ranks, and the step managers above them.
node_processes() {
  local process above
  for process in $(cluster_processes); do
    grep -qzxF "SLURMD_NODENAME=$1" "/proc/$process/environ" 2>/dev/null || continue
    echo "$process"
    above=$(awk '$1 == "PPid:" { print $2 }' "/proc/$process/status" 2>/dev/null)
    if grep -q '^slurmstepd' "/proc/${above:-1}/cmdline" 2>/dev/null; then echo "$above"; fi
  done | sort -un
}

# As if the node lost its power.
kill_node() {
  local processes
  mapfile -t processes < <(node_processes "$1"; cat "$cluster_folder/slurmd.$1.pid")
  kill -KILL "${processes[@]}"
}

stop_cluster() {
  [[ -n $cluster_folder ]] || return 0
  local round process signal=TERM
  if [[ -e $cluster_folder/slurmctld.pid ]]; then
    timeout 10 scancel --user="$(id -un)" >/dev/null 2>&1 || true
    for ((round = 0; round < 20; ++round)); do
      [[ -n $(timeout 10 squeue --noheader 2>/dev/null) ]] || break
      sleep 0.5
    done
  fi
  for ((round = 0; round < 40; ++round)); do
    mapfile -t processes < <(cluster_processes)
    [[ ${#processes[@]} -gt 0 ]] || return 0
    ((round < 20)) || signal=KILL
    for process in "${processes[@]}"; do kill -"$signal" "$process" 2>/dev/null || true; done
    sleep 0.5
  done
  return 1
}
