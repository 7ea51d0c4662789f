# SPDX-License-Identifier: Apache-2.0
# Completion of biqa's programs in bash: `source launch/completion.bash`. `cmake --install` puts it where bash-completion finds
# it. The flags and their choices come from each program's --help, so that they are always those of the installed program.

# _biqa_flags and _biqa_commands PROGRAM: what its --help lists.
_biqa_flags() { "$1" --help 2>/dev/null | sed -n 's/^  \(--[a-z0-9-]*\).*/\1/p'; }
_biqa_commands() { "$1" --help 2>/dev/null | sed -n '/^usage:/,/^  --/s/^  \([a-z][a-z0-9-]*\) .*/\1/p' | sort -u; }
# _biqa_sets PROGRAM: the data sets that its --help lists below "import SET".
_biqa_sets() { "$1" --help 2>/dev/null | sed -n '/^  import SET/,/^  [a-z]* FILE/{/ FILE/d;s/^.*: //;s/,/ /g;p}'; }
# _biqa_choices PROGRAM FLAG: the words of "a, b or c" or "a or b" in the flag's description, if it has only words. The last
# may be a list, such as "a,b".
_biqa_choices() {
  "$1" --help 2>/dev/null | awk -v flag="$2" '
    $1 == flag { found = 1; next }
    found && match($0, /[a-z0-9-]+(, [a-z0-9-]+)* or [a-z0-9-]+(,[a-z0-9-]+)*/) {
      text = substr($0, RSTART, RLENGTH); gsub(/, | or /, " ", text); print text
    }
    found { exit }'
}

_biqa() {
  local program=$1 word=$2 before=$3
  COMPREPLY=()
  case $before in
    --format | --dtype | --device | --conditions | --prompts | --by)
      mapfile -t COMPREPLY < <(compgen -W "$(_biqa_choices "$program" "$before")" -- "$word")
      [[ ${#COMPREPLY[@]} == 0 ]] || return 0
      ;;
  esac
  if [[ $word == -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$(_biqa_flags "$program") --help --version" -- "$word")
  elif [[ $before == import && $COMP_CWORD == 2 && ${program##*/} == biqa_data ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$(_biqa_sets "$program")" -- "$word")
  elif [[ $COMP_CWORD == 1 ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$(_biqa_commands "$program")" -- "$word")
  fi
  # Otherwise the names of files: complete -o default.
  return 0
}
complete -o default -F _biqa biqa_learner biqa_score biqa_eval biqa_ckpt biqa_data biqa_report biqa_trace biqa_sweep biqa_scale biqa_bench
