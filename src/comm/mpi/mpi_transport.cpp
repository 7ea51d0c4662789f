// SPDX-License-Identifier: Apache-2.0
#include "comm/mpi/mpi_transport.h"

#include <glog/logging.h>
#include <mpi.h>
#include <sys/prctl.h>

#include <array>
#include <thread>

#include "core/error.h"

namespace biqa {

void check_mpi(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  fail("{}: {}; look for an earlier error of another rank", call,
       std::string_view(text.data(), static_cast<std::size_t>(length)));
}

namespace {

class MpiTransfer final : public Transfer {
 public:
  MpiTransfer() = default;
  ~MpiTransfer() override {
    // A transfer is unfinished here only after a failure. After that no MPI call may be made, because it could move the
    // bytes.
    if (request_ != MPI_REQUEST_NULL) MPI_Request_free(&request_);
  }
  bool done() override {
    if (request_ == MPI_REQUEST_NULL) return true;
    int flag = 0;
    check_mpi(MPI_Test(&request_, &flag, MPI_STATUS_IGNORE), "MPI_Test");
    return flag != 0;
  }
  MPI_Request* request() { return &request_; }

 private:
  MPI_Request request_ = MPI_REQUEST_NULL;
};

class MpiTransport final : public Transport {
 public:
  MpiTransport() {
    check_mpi(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    check_mpi(MPI_Comm_rank(MPI_COMM_WORLD, &rank_), "MPI_Comm_rank");
    check_mpi(MPI_Comm_size(MPI_COMM_WORLD, &size_), "MPI_Comm_size");
    int* upper_bound = nullptr;
    int found = 0;
    check_mpi(MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, static_cast<void*>(&upper_bound), &found),
              "MPI_Comm_get_attr");
    CHECK(found != 0);
    channels_ = *upper_bound;
    // Sleeps end within a microsecond instead of Linux's usual 50.
    prctl(PR_SET_TIMERSLACK, 1000UL);
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  int channels() const override { return channels_; }

  std::unique_ptr<Transfer> start_send(int to, int channel, std::span<const std::byte> bytes) override {
    auto transfer = std::make_unique<MpiTransfer>();
    check_mpi(MPI_Isend(bytes.data(), static_cast<int>(bytes.size()), MPI_BYTE, to, channel, MPI_COMM_WORLD,
                        transfer->request()),
              "MPI_Isend");
    return transfer;
  }

  std::optional<std::size_t> probe(int from, int channel) override {
    int flag = 0;
    MPI_Status status;
    check_mpi(MPI_Iprobe(from, channel, MPI_COMM_WORLD, &flag, &status), "MPI_Iprobe");
    if (flag == 0) return std::nullopt;
    int count = 0;
    check_mpi(MPI_Get_count(&status, MPI_BYTE, &count), "MPI_Get_count");
    return static_cast<std::size_t>(count);
  }

  std::optional<int> probe_any(int channel) override {
    int flag = 0;
    MPI_Status status;
    check_mpi(MPI_Iprobe(MPI_ANY_SOURCE, channel, MPI_COMM_WORLD, &flag, &status), "MPI_Iprobe");
    if (flag == 0) return std::nullopt;
    return status.MPI_SOURCE;
  }

  std::unique_ptr<Transfer> start_receive(int from, int channel, std::span<std::byte> bytes) override {
    auto transfer = std::make_unique<MpiTransfer>();
    check_mpi(MPI_Irecv(bytes.data(), static_cast<int>(bytes.size()), MPI_BYTE, from, channel, MPI_COMM_WORLD,
                        transfer->request()),
              "MPI_Irecv");
    return transfer;
  }

  // Not sched_yield, because on a busy machine it gives away a whole time slice. A sleeping thread wakes in time.
  void idle(Seconds at_most) override { std::this_thread::sleep_for(at_most); }

 private:
  int rank_ = 0, size_ = 1, channels_ = 0;
};

}  // namespace

std::unique_ptr<Transport> make_mpi_transport() {
  return std::make_unique<MpiTransport>();
}

}  // namespace biqa
