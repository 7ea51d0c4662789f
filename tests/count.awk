# SPDX-License-Identifier: Apache-2.0
# Reads the JUnit file of a CTest run. Prints a line `failed NAME` per failed case, `skipped REASON` per skipped one and at
# the end `total PASSED FAILED SKIPPED`. A GoogleTest program counts by its cases, any other entry as one; a program that
# fails without a failed case (a crash, a time-out) counts as one failure, and so does one that is not there.
function attribute(name) {
  return match($0, " " name "=\"[^\"]*\"") ? substr($0, RSTART + length(name) + 3, RLENGTH - length(name) - 4) : ""
}
/^\t<testcase / {
  name = attribute("name")
  status = attribute("status")
  has_cases = ok = bad = skip = reasons = listing = expect_reason = 0
  why = ""
  message = ""
}
/^\t\t<skipped message=/ { message = attribute("message") }
match($0, /^(\t*<system-out>)?skipped: /) { why = ": " substr($0, RLENGTH + 1) }
expect_reason { reason[++reasons] = $0; expect_reason = 0 }
/: Skipped$/ { expect_reason = 1 }
# GoogleTest's summary; a later one (of the outer program) replaces an earlier one (of a program that it started).
/^\[  PASSED  \] [0-9]+ tests?\.$/ { has_cases = 1; ok = $4; bad = skip = listing = 0 }
/^\[  SKIPPED \] [0-9]+ tests?, listed below:$/ { skip = $4 }
listing && /^\[  FAILED  \] / { listed[listing++] = $4 }
/^\[  FAILED  \] [0-9]+ tests?, listed below:$/ { bad = $4; listing = 1 }
/^\t<\/testcase>/ {
  if (status == "notrun" && message ~ /^SKIP_RETURN_CODE/) {
    ++skipped
    print "skipped " name why
  } else {
    passed += has_cases ? ok : status == "run"
    skipped += skip
    for (i = 1; i <= reasons; ++i) print "skipped " reason[i]
    if (status != "run") {
      failed += bad > 0 ? bad : 1
      for (i = 1; i < listing; ++i) print "failed " name " " listed[i]
      if (bad == 0) print "failed " name " (" (message != "" ? message : "no single case: a crash, a time-out or the whole program") ")"
    }
  }
}
END { printf "total %d %d %d\n", passed, failed, skipped }
