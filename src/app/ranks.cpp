// SPDX-License-Identifier: Apache-2.0
#include "app/ranks.h"

#include <fmt/format.h>

#include <csignal>
#include <exception>
#include <string>

#include "core/failure.h"

namespace biqa {

ExitCode run_on_ranks(const std::function<ExitCode(MpiRuntime& mpi)>& body) {
  MpiRuntime mpi;
  Communicator& world = mpi.world();
  // Every rank fails in the same way on a wrong configuration; only one prints the error.
  on_failure([&](const std::string& message) {
    say("error: {}{}\n", world.size() > 1 ? fmt::format("rank {} of {}: ", world.rank(), world.size()) : "",
        message);
  });
  ExitCode code = ExitCode::done;
  try {
    code = body(mpi);
  } catch (const PeerLost& lost) {
    mpi.abort(static_cast<int>(lost.code()));
  } catch (const std::exception& error) {
    const auto* known = dynamic_cast<const Error*>(&error);
    const int status = static_cast<int>(known != nullptr ? known->code() : ExitCode::world);
    if (!mpi.launched()) {
      on_failure({});
      throw;
    }
    report_failure(error.what());
    mpi.abort(status);
  }
  on_failure({});
  mpi.finalize();
  return code;
}

void listen_to(int signal, void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  sigaction(signal, &action, nullptr);
}

}  // namespace biqa
